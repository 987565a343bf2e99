//! `mmu_update` and `update_va_mapping` (`xen/xen.h`): single entries of page tables, and the machine-to-phys
//! table.

use hv_machine::{Platform, is_guest_range};
use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Mfn};
use hypercall_abi::xen::*;

use super::{
    PREEMPTED, begin, flush_bitmap, flush_domain, frame_owner, hold_tables, require_control, settle,
};
use crate::current::Current;
use crate::domain::Domain;
use crate::hypercall::{Args, HypercallResult, begin_clock, should_preempt};
use crate::memory::{FrameType, Level, Pte, TypedRef};

/// Bits of a request's address that say what to do: an entry has 8 bytes.
const COMMAND: u64 = 7;
/// Requests that are read at a time.
const BATCH: usize = 8;
/// Requests that are a matter of a moment and are carried out between two looks at the clock.
const CLOCK_INTERVAL: u64 = 16;

/// `HYPERVISOR_mmu_update(requests, count, done, foreigndom)`.
///
/// # Errors
/// `EFAULT`, `ESRCH`, `EPERM`, `EINVAL` or `EBUSY` for an entry or a frame that is refused, `ENOSYS` for an unknown
/// request; `EINVAL` too for page tables of a domain that has no vCPU.
/// Requests before the failing one are carried out, and `done` says how many.
pub fn do_mmu_update(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    let [requests, raw_count, done_at, foreign, ..] = *args;
    let (count, done) = begin(cx, requests, raw_count, done_at)?;
    let other;
    let tables_of: &Domain = match (foreign >> 16) as u16 {
        0 => cx.domain,
        id => {
            other = cx.hv.domain(Domid(id - 1))?;
            if other.vcpu_count() == 0 {
                return Err(Errno::EINVAL.into());
            }
            &other
        }
    };
    let frames_of = frame_owner(cx, Domid(foreign as u16))?;
    let _hold = hold_tables(cx, tables_of.id);

    let own = tables_of.id == cx.domain.id;
    let mut call = Call {
        tables_of,
        frames_of,
        may_map: may_map(cx, tables_of.id, frames_of),
        held: None,
    };
    let mut requests_read = Requests::new(requests, count);
    let mut flush = false;
    let mut index = 0;
    let mut long = false;
    let again = |cx: &Current<'_>, index| {
        let at = requests.wrapping_add(index * size_of::<MmuUpdate>() as u64);
        let at = if index < count { at } else { requests };
        Err(cx.again([at, (count - index) | PREEMPTED, done_at, foreign, 0, 0]))
    };
    let result = loop {
        // What a request let go of may be wanted by the next as something else.
        let settled = own && tables_of.owner.is_settled() || settle(cx, tables_of.id);
        let look = (long | (index % CLOCK_INTERVAL == 0)) && index > 0 && index < count;
        if !settled || look && should_preempt(cx) {
            break again(cx, index);
        }
        if index >= count {
            break Ok(0);
        }
        let outcome = requests_read
            .get(cx, index)
            .and_then(|request| call.apply(cx, &request));
        match outcome {
            Ok(Applied::Page) => long = false,
            Ok(Applied::Table { replaced }) => {
                long = true;
                flush |= replaced;
            }
            Err(Errno::ERESTART) => break again(cx, index),
            Err(errno) => {
                settle(cx, tables_of.id);
                break Err(errno.into());
            }
        }
        index += 1;
    };
    if flush {
        flush_domain(cx.hv, tables_of);
    }
    if done_at != 0 {
        // The caller's loss if it cannot be written: what was done is done.
        let _ = cx.write(done_at, &done.wrapping_add(index as u32));
    }
    result
}

/// A guest's list of requests, read a few at a time.
struct Requests {
    list: u64,
    count: u64,
    /// Request n is in place n modulo [`BATCH`].
    batch: [MmuUpdate; BATCH],
    /// The first that is not read yet.
    end: u64,
}

impl Requests {
    fn new(list: u64, count: u64) -> Self {
        Self {
            list,
            count,
            batch: [MmuUpdate { ptr: 0, val: 0 }; BATCH],
            end: 0,
        }
    }

    /// Request `index`, which is below the count; they are asked for in order.
    ///
    /// # Errors
    /// `EFAULT` where it cannot be read, whatever the next ones are.
    #[inline(always)]
    fn get(&mut self, cx: &Current<'_>, index: u64) -> Result<MmuUpdate, Errno> {
        if index >= self.end {
            self.fill(cx, index)?;
        }
        let place = index as usize % BATCH;
        self.batch.get(place).copied().ok_or(Errno::EFAULT)
    }

    /// Reads requests from `index` on.
    #[inline]
    fn fill(&mut self, cx: &Current<'_>, index: u64) -> Result<(), Errno> {
        let place = index as usize % BATCH;
        let free = self.batch.get_mut(place..).unwrap_or_default();
        let count = (self.count - index).min(free.len() as u64);
        let mut read = |count: u64| {
            let part = free.get_mut(..count as usize).unwrap_or_default();
            cx.read_elements(self.list, index, part)?;
            self.end = index + count;
            Ok(())
        };
        read(count).or_else(|_: Errno| read(1))
    }
}

/// What a request came to.
enum Applied {
    /// A word of something other than a page table above L1 was written: a matter of a moment.
    Page,
    /// An entry of a page table above L1 was written.
    Table {
        /// It was in use before.
        replaced: bool,
    },
}

/// Whose tables and frames a call is about, and the L1 table that it wrote to last.
struct Call<'m, 'd> {
    tables_of: &'d Domain,
    frames_of: Domid,
    /// Whether the caller may have the tables name the frames.
    may_map: bool,
    /// Held until a request is about something else: guests write to one table many times.
    held: Option<TypedRef<'m>>,
}

/// Whether the caller may have tables of one domain name frames of one; anybody may ask for those of [`Domid::IO`].
fn may_map(cx: &Current<'_>, tables_of: Domid, frames_of: Domid) -> bool {
    let may = |owner| require_control(cx, owner).is_ok();
    (frames_of == Domid::IO || may(frames_of)) && may(tables_of)
}

impl<'m> Call<'m, '_> {
    /// Carries out one request.
    #[inline(always)]
    fn apply(&mut self, cx: &Current<'m>, request: &MmuUpdate) -> Result<Applied, Errno> {
        let command = request.ptr & COMMAND;
        let address = request.ptr & !COMMAND;
        let mfn = Mfn(address >> 12);
        match command {
            MMU_NORMAL_PT_UPDATE | MMU_PT_UPDATE_PRESERVE_AD | MMU_PT_UPDATE_NO_TRANSLATE => {
                if !self.may_map {
                    return Err(Errno::EPERM);
                }
                let index = (address & 0xfff) as usize / 8;
                let preserve = command == MMU_PT_UPDATE_PRESERVE_AD;
                self.write_entry(cx, mfn, index, Pte(request.val), preserve)
            }
            MMU_MACHPHYS_UPDATE => {
                self.held = None;
                if !core::ptr::eq(self.tables_of, cx.domain) {
                    return Err(Errno::EPERM);
                }
                require_control(cx, self.frames_of)?;
                let frame = cx.hv.memory.get(mfn, self.frames_of);
                let frame = frame.ok_or(Errno::EINVAL)?;
                cx.machine().set_m2p(frame.mfn(), request.val);
                Ok(Applied::Page)
            }
            _ => Err(Errno::ENOSYS),
        }
    }

    /// Writes a word of a frame: as an entry where the frame is a page table, else as plain data.
    #[inline(always)]
    fn write_entry(
        &mut self,
        cx: &Current<'m>,
        mfn: Mfn,
        index: usize,
        entry: Pte,
        preserve: bool,
    ) -> Result<Applied, Errno> {
        let memory = &cx.hv.memory;
        if self.held.as_ref().is_none_or(|held| held.mfn() != mfn) {
            self.held = None;
            self.held = memory.get_valid(mfn, self.tables_of.id, Level::L1);
        }
        if self.held.is_none() {
            return self.write_other(cx, mfn, index, entry, preserve);
        }
        memory.update_page(mfn, index, entry, self.frames_of, preserve)?;
        Ok(Applied::Page)
    }

    /// As [`Self::write_entry`], for a frame that is not in use as an L1 table.
    #[inline(never)]
    fn write_other(
        &self,
        cx: &Current<'m>,
        mfn: Mfn,
        index: usize,
        entry: Pte,
        preserve: bool,
    ) -> Result<Applied, Errno> {
        let memory = &cx.hv.memory;
        let owner = self.tables_of.id;
        let frame = memory.get(mfn, owner).ok_or(Errno::EINVAL)?;
        let kind = memory.type_in_use(mfn);
        let FrameType::Table(level) = kind else {
            let page = frame.with_type(FrameType::Writable)?;
            cx.machine().store_u64(page.mfn(), index, entry.0);
            return Ok(Applied::Page);
        };
        if level != Level::L1 && self.frames_of != owner {
            return Err(Errno::EINVAL);
        }
        begin_clock(cx);
        let mut out_of_time = || should_preempt(cx);
        let table = frame.with_type_until(kind, &mut out_of_time)?;
        let frames_of = self.frames_of;
        let updated =
            memory.update_entry(&table, index, entry, frames_of, preserve, &mut out_of_time)?;
        Ok(match level {
            Level::L1 => Applied::Page,
            _ => Applied::Table {
                replaced: updated.old.present(),
            },
        })
    }
}

/// `HYPERVISOR_update_va_mapping(va, entry, flags)`.
///
/// # Errors
/// `EINVAL` where no L1 table covers the address or the entry is refused, `EPERM`, `EFAULT` for the bitmap.
pub fn do_update_va_mapping(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    let owner = cx.domain.id;
    update_va_mapping(cx, args, owner)
}

/// `HYPERVISOR_update_va_mapping_otherdomain(va, entry, flags, domid)`.
///
/// # Errors
/// As [`do_update_va_mapping`], and `ESRCH`; `EPERM` for another's frames, those of [`Domid::IO`] included, unless it
/// is the control domain that asks.
pub fn do_update_va_mapping_otherdomain(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    let owner = frame_owner(cx, Domid(args[3] as u16))?;
    require_control(cx, owner)?;
    update_va_mapping(cx, args, owner)
}

fn update_va_mapping(cx: &mut Current<'_>, args: &Args, frames_of: Domid) -> HypercallResult {
    let [va, entry, flags, ..] = *args;
    let memory = &cx.hv.memory;
    if !is_guest_range(va, 1) {
        return Err(Errno::EINVAL.into());
    }
    let root = cx.state.root();
    let slot = root
        .and_then(|root| memory.l1_slot(root, va))
        .ok_or(Errno::EINVAL)?;
    // Held, so that it stays an L1 table while it is written.
    let table = memory.get_valid(slot.table, cx.domain.id, Level::L1);
    let table = table.ok_or(Errno::EINVAL)?;
    memory.update_page(slot.table, slot.index, Pte(entry), frames_of, false)?;
    drop(table);

    let bitmap = flags & !UVMF_FLUSHTYPE_MASK;
    match flags & UVMF_FLUSHTYPE_MASK {
        UVMF_TLB_FLUSH => match bitmap {
            UVMF_LOCAL => cx.machine().flush_tlb(),
            UVMF_ALL => flush_domain(cx.hv, cx.domain),
            bitmap => flush_bitmap(cx, bitmap)?,
        },
        UVMF_INVLPG => match bitmap {
            UVMF_LOCAL => cx.machine().flush_tlb_page(va),
            UVMF_ALL => flush_domain(cx.hv, cx.domain),
            bitmap => flush_bitmap(cx, bitmap)?,
        },
        _ => {}
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{DOM0, DOMU, Host, RO, RW, SCRATCH, UNMAPPED};
    use hypercall_abi::xen::{HYPERVISOR_MMU_UPDATE, HYPERVISOR_UPDATE_VA_MAPPING};

    const SELF: u64 = Domid::SELF.0 as u64;

    fn errno(errno: Errno) -> i64 {
        errno.to_return()
    }

    /// Makes one request on a page table; gives the result and how many were done.
    fn update(host: &Host, id: Domid, ptr: u64, val: u64, foreign: u64) -> (i64, u32) {
        let request = host.put(id, &MmuUpdate { ptr, val });
        let done = host.put(id, &0_u32);
        let result = host.hypercall(id, HYPERVISOR_MMU_UPDATE, &[request, 1, done, foreign]);
        (result, host.get(id, done))
    }

    /// Address of the L1 entry that maps scratch page `page`.
    fn l1_entry(host: &Host, id: Domid, page: u64) -> u64 {
        (host.layout(id).tables[3].0 << 12) | (page * 8)
    }

    #[test]
    fn an_l1_entry_is_replaced_and_the_counts_follow() {
        let host = Host::new();
        let frames = host.layout(DOMU).scratch.clone();
        let memory = &host.hv.memory;
        let before = memory
            .state(frames[9])
            .map(|state| (state.references, state.types));
        let entry = Pte::new(frames[9], RW).0;
        assert_eq!(
            update(&host, DOMU, l1_entry(&host, DOMU, 8), entry, SELF),
            (0, 1)
        );
        let after = memory
            .state(frames[9])
            .map(|state| (state.references, state.types));
        assert_eq!(before.map(|(refs, types)| (refs + 1, types + 1)), after);
        assert_eq!(
            memory
                .state(frames[8])
                .map(|state| (state.references, state.types)),
            Some((1, 0))
        );
        host.put_at(DOMU, SCRATCH + 9 * 4096, &0x7777_u64);
        assert_eq!(host.get::<u64>(DOMU, SCRATCH + 8 * 4096), 0x7777);
    }

    #[test]
    fn a_page_table_is_never_mapped_writable() {
        let host = Host::new();
        for table in host.layout(DOMU).tables {
            let at = l1_entry(&host, DOMU, 8);
            assert_eq!(
                update(&host, DOMU, at, Pte::new(table, RW).0, SELF),
                (errno(Errno::EBUSY), 0)
            );
            assert_eq!(update(&host, DOMU, at, Pte::new(table, RO).0, SELF), (0, 1));
        }
    }

    #[test]
    fn a_mapped_writable_page_never_becomes_a_page_table() {
        let host = Host::new();
        let [_, l3, ..] = host.layout(DOMU).tables;
        let victim = host.layout(DOMU).scratch[5];
        let at = (l3.0 << 12) | (100 * 8);
        assert_eq!(
            update(&host, DOMU, at, Pte::new(victim, RW).0, SELF),
            (errno(Errno::EINVAL), 0)
        );
        // Unmapped everywhere, it may.
        assert_eq!(
            update(&host, DOMU, l1_entry(&host, DOMU, 5), 0, SELF),
            (0, 1)
        );
        assert_eq!(
            update(&host, DOMU, at, Pte::new(victim, RW).0, SELF),
            (0, 1)
        );
        assert_eq!(
            host.hv.memory.type_in_use(victim),
            FrameType::Table(Level::L2)
        );
    }

    #[test]
    fn frames_of_others_the_hypervisor_and_the_void_are_refused() {
        let host = Host::new();
        let foreign = host.layout(DOM0).scratch[0];
        for mfn in [
            foreign,
            Mfn(1),
            Mfn(260),
            Mfn(1 << 30),
            host.domain(DOM0).shared_info,
        ] {
            let (result, done) = update(
                &host,
                DOMU,
                l1_entry(&host, DOMU, 8),
                Pte::new(mfn, RO).0,
                SELF,
            );
            assert!(
                result == errno(Errno::EBUSY) || result == errno(Errno::EPERM),
                "{mfn}: {result}"
            );
            assert_eq!(done, 0);
        }
    }

    #[test]
    fn flags_that_no_guest_may_set_are_refused() {
        let host = Host::new();
        let [l4, l3, l2, _] = host.layout(DOMU).tables;
        let frame = host.layout(DOMU).scratch[9];
        for table in [l4, l3, l2] {
            let entry = Pte::new(frame, RW | Pte::PSE).0;
            assert_eq!(
                update(&host, DOMU, (table.0 << 12) | (8 * 99), entry, SELF).0,
                errno(Errno::EINVAL)
            );
        }
        // Nor beside what is there already, where the frame needs no second look.
        for (table, level) in [(l4, Level::L4), (l3, Level::L3), (l2, Level::L2)] {
            let index = level.index(SCRATCH);
            let at = (table.0 << 12) | (8 * index as u64);
            let entry = host.hv.machine.load_u64(table, index);
            for flag in [Pte::GLOBAL, Pte::PSE, Pte::PCD] {
                let result = update(&host, DOMU, at, entry | flag, SELF).0;
                assert_eq!(result, errno(Errno::EINVAL), "{level:?} {flag:#x}");
            }
            assert_eq!(update(&host, DOMU, at, entry | Pte::AVAILABLE, SELF).0, 0);
        }
    }

    #[test]
    fn an_entry_that_is_not_present_leads_to_no_table() {
        let host = Host::new();
        let [_, _, l2, _] = host.layout(DOMU).tables;
        let table = host.layout(DOMU).scratch[20];
        assert_eq!(
            update(&host, DOMU, l1_entry(&host, DOMU, 20), 0, SELF),
            (0, 1)
        );
        let pin = MmuextOp {
            cmd: MMUEXT_PIN_L1_TABLE,
            _pad0: 0,
            arg1: table.0,
            arg2: 0,
        };
        let args = [host.put(DOMU, &pin), 1, 0, SELF];
        assert_eq!(host.hypercall(DOMU, HYPERVISOR_MMUEXT_OP, &args), 0);
        let va = SCRATCH + (2 << 20);
        let at = (l2.0 << 12) | (8 * Level::L2.index(va) as u64);
        for (flags, result) in [(RW, 0), (RW & !Pte::PRESENT, errno(Errno::EINVAL))] {
            let entry = Pte::new(table, flags).0;
            assert_eq!(update(&host, DOMU, at, entry, SELF), (0, 1));
            let args = [va, 0x1000, UVMF_INVLPG];
            let updated = host.hypercall(DOMU, HYPERVISOR_UPDATE_VA_MAPPING, &args);
            assert_eq!(updated, result);
        }
    }

    #[test]
    fn the_hypervisors_slots_are_out_of_reach() {
        let host = Host::new();
        let [l4, l3, ..] = host.layout(DOMU).tables;
        for slot in [256, 261, 271] {
            let at = (l4.0 << 12) | (slot * 8);
            assert_eq!(
                update(&host, DOMU, at, Pte::new(l3, RW).0, SELF),
                (errno(Errno::EINVAL), 0)
            );
            assert_eq!(update(&host, DOMU, at, 0, SELF), (errno(Errno::EINVAL), 0));
        }
        assert_eq!(
            update(
                &host,
                DOMU,
                (l4.0 << 12) | (272 * 8),
                Pte::new(l3, RW).0,
                SELF
            ),
            (0, 1)
        );
    }

    #[test]
    fn an_ordinary_page_is_written_as_data() {
        let host = Host::new();
        let page = host.layout(DOMU).scratch[7];
        assert_eq!(update(&host, DOMU, page.0 << 12 | 16, 0xabcd, SELF), (0, 1));
        assert_eq!(host.hv.machine.load_u64(page, 2), 0xabcd);
    }

    #[test]
    fn the_machine_to_phys_table_is_written_for_own_frames_only() {
        let host = Host::new();
        let own = host.layout(DOMU).scratch[3];
        let other = host.layout(DOM0).scratch[3];
        let command = MMU_MACHPHYS_UPDATE;
        assert_eq!(update(&host, DOMU, own.0 << 12 | command, 77, SELF), (0, 1));
        assert_eq!(host.hv.machine.m2p(own), 77);
        assert_eq!(
            update(&host, DOMU, other.0 << 12 | command, 78, SELF).0,
            errno(Errno::EINVAL)
        );
        assert_eq!(
            update(&host, DOMU, other.0 << 12 | command, 78, u64::from(DOM0.0)).0,
            errno(Errno::EPERM)
        );
        assert_eq!(
            update(&host, DOM0, own.0 << 12 | command, 79, u64::from(DOMU.0)),
            (0, 1)
        );
        assert_eq!(host.hv.machine.m2p(own), 79);
    }

    #[test]
    fn the_control_domain_maps_frames_of_others_and_nobody_else_does() {
        let host = Host::new();
        let theirs = host.layout(DOMU).scratch[4];
        let entry = Pte::new(theirs, RW).0;
        let domu = u64::from(DOMU.0);
        assert_eq!(
            update(&host, DOM0, l1_entry(&host, DOM0, 8), entry, SELF).0,
            errno(Errno::EBUSY)
        );
        assert_eq!(
            update(&host, DOM0, l1_entry(&host, DOM0, 8), entry, domu),
            (0, 1)
        );
        host.put_at(DOMU, SCRATCH + 4 * 4096, &42_u64);
        assert_eq!(host.get::<u64>(DOM0, SCRATCH + 8 * 4096), 42);
        let mine = Pte::new(host.layout(DOM0).scratch[4], RO).0;
        assert_eq!(
            update(&host, DOMU, l1_entry(&host, DOMU, 8), mine, 0).0,
            errno(Errno::EPERM)
        );
        assert_eq!(
            update(&host, DOM0, l1_entry(&host, DOM0, 8), entry, 99).0,
            errno(Errno::ESRCH)
        );
    }

    #[test]
    fn bad_pointers_and_unknown_requests_are_told() {
        let host = Host::new();
        let call = |args: &[u64]| host.hypercall(DOMU, HYPERVISOR_MMU_UPDATE, args);
        assert_eq!(call(&[UNMAPPED, 1, 0, SELF]), errno(Errno::EFAULT));
        assert_eq!(
            call(&[hv_machine::HYPERVISOR_VIRT_START, 1, 0, SELF]),
            errno(Errno::EFAULT)
        );
        assert_eq!(call(&[UNMAPPED, 0, 0, SELF]), 0);
        assert_eq!(
            call(&[u64::MAX - 7, 0x7fff_ffff, 0, SELF]),
            errno(Errno::EFAULT)
        );
    }

    #[test]
    fn requests_before_a_bad_one_are_carried_out_and_counted() {
        let host = Host::new();
        let page = host.layout(DOMU).scratch[7];
        let good = MmuUpdate {
            ptr: page.0 << 12,
            val: 1,
        };
        let bad = MmuUpdate {
            ptr: 1 << 50,
            val: 0,
        };
        let requests = host.put_slice(DOMU, &[good, bad, good]);
        let done = host.put(DOMU, &0_u32);
        let result = host.hypercall(DOMU, HYPERVISOR_MMU_UPDATE, &[requests, 3, done, SELF]);
        assert_eq!(
            (result, host.get::<u32>(DOMU, done)),
            (errno(Errno::EINVAL), 1)
        );
    }

    #[test]
    fn update_va_mapping_finds_the_entry_and_flushes_as_asked() {
        let host = Host::new();
        let frame = host.layout(DOMU).scratch[9];
        let va = SCRATCH + 8 * 4096;
        let call = |va: u64, flags: u64| {
            host.hv.machine.take_flushes();
            let result = host.hypercall(
                DOMU,
                HYPERVISOR_UPDATE_VA_MAPPING,
                &[va, Pte::new(frame, RW).0, flags],
            );
            (result, host.hv.machine.take_flushes())
        };
        use hv_machine::sim::Flush;
        assert_eq!(
            call(va, UVMF_INVLPG | UVMF_LOCAL),
            (0, vec![Flush::Page(0, va)])
        );
        assert_eq!(call(va, UVMF_NONE), (0, vec![]));
        assert_eq!(
            call(va, UVMF_TLB_FLUSH | UVMF_ALL),
            (0, vec![Flush::All(1)])
        );
        assert_eq!(call(UNMAPPED, 0).0, errno(Errno::EINVAL));
        assert_eq!(
            call(hv_machine::HYPERVISOR_VIRT_START, 0).0,
            errno(Errno::EINVAL)
        );
        assert_eq!(call(0x8000_0000_0000, 0).0, errno(Errno::EINVAL));
        assert_eq!(call(va, UVMF_TLB_FLUSH | UNMAPPED).0, errno(Errno::EFAULT));
    }
}

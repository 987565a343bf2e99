//! What the rewritten hypervisor asks at every check whether the check is the one that is to be wrong.
//!
//! This is no module of xtask: it is put into a copy of hv-core. `MUTANT` in the environment has the number of the
//! mutant. Without one, the file that `MUTANTS_SEEN` names is told which of them would have made a difference, on which
//! thread (those of tests, and of sequences of the search, have their names), and behind how many looks of the search.
//!
//! Where nothing is different from how it was without a mutant, the search need not count everything again. So
//! [`must_recount`] keeps a print of all that is counted, as it was without, in the directory `MUTANT_PRINTS`; with a
//! mutant it compares. The file that `MUTANT_FELT` names is told in which sequences there was a difference.
#![allow(missing_docs, clippy::all)]

use std::cell::{Cell, RefCell};
use std::io::{Cursor, Write};
use std::path::PathBuf;
use std::string::{String, ToString};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};
use std::vec::Vec;
use std::{format, fs, thread};

use hv_machine::{Platform, TABLE_ENTRIES};
use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Mfn};

use crate::hypervisor::Hypervisor;
use crate::memory::{FrameRef, FrameType, Level, Memory, Stage, TypedRef};

const MOST: usize = 4096;
/// Of so many looks one counts again whatever the prints say.
const TRUST: usize = 25;

/// The number of the mutant; without one, [`NONE`], or [`NOTED`] where a note is to be taken of all.
static ACTIVE: AtomicUsize = AtomicUsize::new(UNKNOWN);
const NONE: usize = 0;
const NOTED: usize = usize::MAX;
const UNKNOWN: usize = NOTED - 1;

#[inline(always)]
fn active() -> usize {
    match ACTIVE.load(Ordering::Relaxed) {
        UNKNOWN => find_active(),
        known => known,
    }
}

#[cold]
fn find_active() -> usize {
    let number = std::env::var("MUTANT").ok();
    let number = number.and_then(|text| text.parse().ok()).unwrap_or(NONE);
    let active = match number {
        NONE if SEEN.is_some() => NOTED,
        number => number,
    };
    ACTIVE.store(active, Ordering::Relaxed);
    active
}

fn notes(name: &str) -> Option<Mutex<fs::File>> {
    let path = std::env::var_os(name)?;
    let file = fs::File::options().create(true).append(true).open(path);
    file.ok().map(Mutex::new)
}

static SEEN: LazyLock<Option<Mutex<fs::File>>> = LazyLock::new(|| notes("MUTANTS_SEEN"));
static FELT: LazyLock<Option<Mutex<fs::File>>> = LazyLock::new(|| notes("MUTANT_FELT"));
static PRINTS: LazyLock<Option<PathBuf>> =
    LazyLock::new(|| std::env::var_os("MUTANT_PRINTS").map(PathBuf::from));

thread_local! {
    static FIRST: [Cell<bool>; MOST] = const { [const { Cell::new(true) }; MOST] };
    /// Whether the mutant has made a difference on this thread.
    static DIFFERS: Cell<bool> = const { Cell::new(false) };
    static LOOKS: Cell<usize> = const { Cell::new(0) };
    static SEARCH: RefCell<Option<Search>> = RefCell::new(Search::here());
}

/// Mutant `id` makes a difference here.
#[inline(always)]
fn note(id: usize) {
    let active = active();
    if active == id {
        DIFFERS.set(true);
    } else if active == NOTED {
        tell(id);
    }
}

/// Takes a note, without memory of the heap: there are tests in which that is short.
#[cold]
fn tell(id: usize) {
    if !FIRST.with(|first| first[id].replace(false)) {
        return;
    }
    let Some(seen) = &*SEEN else { return };
    let thread = thread::current();
    let name = thread.name().unwrap_or("");
    let mut line = Cursor::new([0; 256]);
    let written = match name.starts_with("search ") {
        true => writeln!(line, "{id} {name} {}", LOOKS.get()),
        false => writeln!(line, "{id} {name}"),
    };
    written.expect("tests have shorter names");
    let length = line.position() as usize;
    let mut seen = seen.lock().expect("no panic there");
    seen.write_all(&line.get_ref()[..length])
        .expect("room for notes");
}

#[inline(always)]
fn is(id: usize) -> bool {
    active() == id
}

/// Whether nothing is wrong.
fn is_sound() -> bool {
    matches!(active(), NONE | NOTED)
}

/// What is known of a sequence of the search on its thread.
struct Search {
    name: String,
    path: PathBuf,
    /// The prints without a mutant: as they were, or as they come.
    prints: Vec<u64>,
    contents: Vec<(u32, u64)>,
    felt: bool,
}

impl Search {
    fn here() -> Option<Self> {
        let name = thread::current()
            .name()?
            .strip_prefix("search ")?
            .to_string();
        let path = PRINTS.as_ref()?.join(&name);
        let prints = match is_sound() {
            true => Vec::new(),
            false => {
                let bytes = fs::read(&path).expect("there was a run without a mutant");
                let words = bytes.as_chunks::<8>().0;
                words.iter().map(|&word| u64::from_ne_bytes(word)).collect()
            }
        };
        Some(Self {
            name,
            path,
            prints,
            contents: Vec::new(),
            felt: false,
        })
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        if is_sound() {
            let bytes: Vec<u8> = self.prints.iter().flat_map(|it| it.to_ne_bytes()).collect();
            fs::write(&self.path, bytes).expect("room for prints");
        }
    }
}

/// Whether everything is to be counted again.
pub fn must_recount(hv: &Hypervisor) -> bool {
    let look = LOOKS.get();
    LOOKS.set(look + 1);
    SEARCH.with_borrow_mut(|search| {
        let Some(search) = search else { return true };
        if is_sound() {
            let print = print(hv, &mut search.contents);
            search.prints.push(print);
            return true;
        }
        if !DIFFERS.get() {
            return look % TRUST == 0;
        }
        let differs = search.prints.get(look) != Some(&print(hv, &mut search.contents));
        if differs && !std::mem::replace(&mut search.felt, true) {
            if let Some(felt) = &*FELT {
                let _ = writeln!(felt.lock().expect("no panic there"), "{}", search.name);
            }
        }
        differs || look % TRUST == 0
    })
}

/// A number for what the recount looks at, which keeps in `contents` what it worked out of each frame's.
fn print(hv: &Hypervisor, contents: &mut Vec<(u32, u64)>) -> u64 {
    let memory = &hv.memory;
    let machine = &*hv.machine;
    let frames = machine.frame_limit() as usize;
    let mut all = Mixer(0);
    contents.resize(frames, (u32::MAX, 0));
    for (number, known) in contents.iter_mut().enumerate() {
        let mfn = Mfn(number as u64);
        if machine.is_private(mfn) {
            continue;
        }
        let writes = machine.writes(mfn);
        if known.0 != writes {
            let mut words = Mixer(0);
            for index in 0..TABLE_ENTRIES {
                words.add(machine.load_u64(mfn, index));
            }
            *known = (writes, words.0);
        }
        all.add(known.1);
        all.add(machine.m2p(mfn));
        if let Some(state) = memory.state(mfn) {
            let kind = match state.kind {
                FrameType::None => 0,
                FrameType::Descriptors => 1,
                FrameType::Writable => 2,
                FrameType::Table(level) => 2 + level as u64,
            };
            let stage = match state.stage {
                Stage::Idle => 0,
                Stage::Busy => 1,
                Stage::Valid => 2,
                Stage::Partial(count) => 1000 + count as u64,
                Stage::Leaving(count) => 2000 + count as u64,
            };
            let owner = state.owner.map_or(u64::MAX, |it| it.0.into());
            all.add(u64::from(state.references) << 32 | u64::from(state.types));
            all.add(owner << 20 | kind << 12 | stage);
            all.add(u64::from(state.allocated) << 1 | u64::from(state.pinned));
        }
    }
    for count in [
        memory.free_frames(),
        memory.dirty_frames(),
        memory.claimed_frames(),
    ] {
        all.add(count);
    }
    for domain in hv.domains.read().values() {
        let owner = &domain.owner;
        for count in [owner.frames(), owner.max_frames(), owner.claim()] {
            all.add(count);
        }
        all.frames(crate::grant::recount::frames(domain).into_iter().map(Some));
        for (mfn, write) in crate::grant::recount::held_for_devices(domain) {
            all.add(mfn.0 << 1 | u64::from(write));
        }
        for vcpu in domain.vcpus() {
            let info = vcpu.info();
            let state = vcpu.state.lock_out_of_order();
            all.add(info.mfn.0);
            let unhooked = state.table_stores.unhooked();
            all.add(unhooked.map_or(u64::MAX, |(unhooked, _)| unhooked.table.0));
            let roots = [state.kernel_root, state.user_root];
            all.frames(roots.into_iter().chain(state.ldt_frames));
            all.frames(state.gdt.iter().copied().map(Some));
        }
    }
    for number in 0..machine.cpu_count() {
        let cpu = machine.cpu(number);
        all.add(cpu.hole.unwrap_or(u64::MAX));
        all.add(u64::from(cpu.ldt_entries) << 1 | u64::from(cpu.root_left));
        all.frames([cpu.root].into_iter().chain(cpu.ldt));
        all.frames(cpu.gdt.iter().copied().map(Some));
        for (mfn, remembered) in machine.remembered(number) {
            use hv_machine::sim::Remembered;
            let kind = match remembered {
                Remembered::Page => 0,
                Remembered::WritablePage => 1,
                Remembered::Table { level, writable } => level << 4 | u32::from(writable) | 8,
            };
            all.add(mfn.0 << 16 | u64::from(kind));
        }
    }
    all.0
}

/// A quick hash.
struct Mixer(u64);

impl Mixer {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn frames(&mut self, frames: impl Iterator<Item = Option<Mfn>>) {
        for frame in frames {
            self.add(frame.map_or(u64::MAX, |mfn| mfn.0));
        }
        self.add(0x5eed);
    }
}

/// A condition: mutant `id` makes it true, the next one false.
#[inline]
pub fn condition(id: usize, real: bool) -> bool {
    note(if real { id + 1 } else { id });
    is(id) || real && !is(id + 1)
}

/// A condition that mutant `id` makes true: one of several that are all needed.
#[inline]
pub fn needed(id: usize, real: bool) -> bool {
    if !real {
        note(id);
    }
    is(id) || real
}

/// A condition that mutant `id` makes false: one of several that are each enough.
#[inline]
pub fn enough(id: usize, real: bool) -> bool {
    if real {
        note(id);
    }
    real && !is(id)
}

/// Whether a statement is carried out.
#[inline]
pub fn keep(id: usize) -> bool {
    note(id);
    !is(id)
}

/// `a < b`, or `a <= b`.
#[inline]
pub fn less<T: PartialOrd>(id: usize, a: T, b: T) -> bool {
    if a == b {
        note(id);
    }
    a < b || is(id) && a == b
}

/// `a <= b`, or `a < b`.
#[inline]
pub fn most<T: PartialOrd>(id: usize, a: T, b: T) -> bool {
    if a == b {
        note(id);
    }
    a < b || !is(id) && a == b
}

/// `a > b`, or `a >= b`.
#[inline]
pub fn more<T: PartialOrd>(id: usize, a: T, b: T) -> bool {
    less(id, b, a)
}

/// `a >= b`, or `a > b`.
#[inline]
pub fn least<T: PartialOrd>(id: usize, a: T, b: T) -> bool {
    most(id, b, a)
}

/// Bits that are taken for harmless.
#[inline]
pub fn bits(id: usize, bits: u64) -> u64 {
    note(id);
    if is(id) { bits } else { 0 }
}

impl Memory {
    /// [`Self::get`], whoever owns the frame.
    pub fn get_mutant(&self, id: usize, mfn: Mfn, owner: Domid) -> Option<FrameRef<'_>> {
        if self.must_get(id, mfn, owner) {
            self.get_any(mfn)
        } else {
            self.get(mfn, owner)
        }
    }

    /// Whether a frame is got whoever owns it.
    fn must_get(&self, id: usize, mfn: Mfn, owner: Domid) -> bool {
        if self.owner_of(mfn) != Some(owner) {
            note(id);
        }
        is(id)
    }

    /// [`Self::get_typed`], whoever owns the frame.
    pub fn get_typed_mutant(
        &self,
        id: usize,
        mfn: Mfn,
        owner: Domid,
        kind: FrameType,
    ) -> Result<TypedRef<'_>, Errno> {
        let frame = match self.must_get(id, mfn, owner) {
            true => self.get_any(mfn).ok_or(Errno::EINVAL)?,
            false => return self.get_typed(mfn, owner, kind),
        };
        frame.with_type(kind)
    }

    /// [`Self::get_table`], whoever owns the frame.
    pub fn get_table_mutant(
        &self,
        id: usize,
        mfn: Mfn,
        owner: Domid,
        level: Level,
        out_of_time: &mut dyn FnMut() -> bool,
    ) -> Result<TypedRef<'_>, Errno> {
        let frame = match self.must_get(id, mfn, owner) {
            true => self.get_any(mfn).ok_or(Errno::EINVAL)?,
            false => return self.get_table(mfn, owner, level, out_of_time),
        };
        frame.with_type_until(FrameType::Table(level), out_of_time)
    }
}

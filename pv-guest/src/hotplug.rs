//! vCPUs that come and go as the toolstack says under `cpu/` in the store, as Linux' do
//! (`drivers/xen/cpu_hotplug.c`; `docs/misc/xenstore-paths.pandoc`).
//!
//! One that is taken away goes down by itself, between two tasks; its tasks wait there until it is
//! brought up again.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::SeqCst;
use core::time::Duration;

use hypercall_abi::errno::Errno;

use crate::hypercall::{Result, vcpu};
use crate::store::{self, Error, Store};
use crate::vcpus::{self, MAX_VCPUS};
use crate::{clock, println, user};

/// vCPUs that are to be down: a bit for each.
static UNWANTED: AtomicU32 = AtomicU32::new(0);

/// vCPUs that are down, about to go down, or just up again.
static RESTING: AtomicU32 = AtomicU32::new(0);

/// How often a vCPU is looked at that was told to do something.
const LOOK: Duration = Duration::from_millis(1);

const _: () = assert!(MAX_VCPUS <= u32::BITS as usize);

/// Has this vCPU go down if it is not wanted; it returns when the vCPU is.
pub(crate) fn rest() {
    let (id, bit) = (vcpus::current(), 1 << vcpus::current());
    if UNWANTED.load(SeqCst) & bit == 0 {
        return;
    }
    RESTING.fetch_or(bit, SeqCst);
    user::leave();
    while UNWANTED.load(SeqCst) & bit != 0 {
        // It cannot be refused.
        _ = vcpu::down(id);
    }
    RESTING.fetch_and(!bit, SeqCst);
}

/// Takes a vCPU away, and waits until it is down.
///
/// # Errors
///
/// `EBUSY` for the boot vCPU, which stays; `ENOENT` where there is no such vCPU.
pub async fn take_down(id: u32) -> Result<()> {
    if id == 0 {
        return Err(Errno::EBUSY.into());
    }
    if id as usize >= MAX_VCPUS {
        return Err(Errno::ENOENT.into());
    }
    if vcpu::is_up(id)? {
        UNWANTED.fetch_or(1 << id, SeqCst);
        vcpus::kick(id);
        while vcpu::is_up(id)? {
            clock::sleep(LOOK).await;
        }
    }
    Ok(())
}

/// Brings a vCPU up that was taken away.
///
/// # Errors
///
/// What the hypervisor says.
pub async fn bring_up(id: u32) -> Result<()> {
    if id as usize >= MAX_VCPUS {
        return Err(Errno::ENOENT.into());
    }
    UNWANTED.fetch_and(!(1 << id), SeqCst);
    // It may have seen that it was not wanted, and go down only after this.
    while RESTING.load(SeqCst) & (1 << id) != 0 {
        vcpu::up(id)?;
        clock::sleep(LOOK).await;
    }
    Ok(())
}

/// Has those vCPUs up that the toolstack wants, for as long as there is a store that says it. Each
/// runs the future that `main` makes on it, from the first time that it is up. It says why it ends
/// unless there is no store at all.
pub async fn follow_availability<F>(main: impl Fn() -> F + Clone + Send + 'static)
where
    F: Future<Output = ()> + 'static,
{
    match follow(main).await {
        Ok(()) | Err(Error::NoStore) => {}
        Err(error) => println!("hotplug: the toolstack's wishes do not come through: {error}"),
    }
}

async fn follow<F>(main: impl Fn() -> F + Clone + Send + 'static) -> core::result::Result<(), Error>
where
    F: Future<Output = ()> + 'static,
{
    let store = store::store()?;
    let count = vcpus::count();
    if count == 1 {
        return Ok(());
    }
    let mut watch = store.watch("cpu");
    loop {
        watch.next().await?;
        for id in 1..count {
            let Some(wanted) = is_wanted(&store, id).await? else {
                continue;
            };
            let done = match (wanted, vcpus::was_started(id)) {
                (true, false) => vcpus::start(id, main.clone()),
                (true, true) => bring_up(id).await,
                (false, _) => take_down(id).await,
            };
            if let Err(error) = done {
                println!("hotplug: vCPU {id}: {error}");
            }
        }
    }
}

/// What the toolstack says of a vCPU, if that makes sense.
async fn is_wanted(store: &Store, id: u32) -> core::result::Result<Option<bool>, Error> {
    let path = alloc::format!("cpu/{id}/availability");
    match store.read(&path).await.as_deref() {
        Ok(b"online") => Ok(Some(true)),
        Ok(b"offline") => Ok(Some(false)),
        Ok(_) | Err(Error::Refused(_)) => Ok(None),
        Err(error) => Err(*error),
    }
}

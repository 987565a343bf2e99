//! What the guest does.

extern crate alloc;

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::Cell;
use core::future::pending;

use pv_guest::block::{Device, Disk, Error, Options};
use pv_guest::power::{Reason, shutdown};
use pv_guest::store::store;
use pv_guest::{boot, clock, control, println, spawn};

pv_guest::entry!(main);

const SECTOR: usize = 512;
/// The most that is written or read at a time: larger than a request without indirect segments.
const MOST: u64 = 256;
/// Of so much there is a line.
const REPORT: u64 = 16 << 20;

fn number(name: &str, default: u64) -> u64 {
    boot::option(name)
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

async fn main() {
    spawn(control::obey(async |_| ())).detach();
    let options = Options {
        queues: number("queues", 1) as u32,
        ring_order: number("order", 0) as u32,
        persistent: number("persistent", 1) != 0,
    };
    let name = boot::option("disk").unwrap_or("xvda");
    let disk = store()
        .ok()
        .and_then(|store| Disk::open(store, name, options));
    let Some(disk) = disk else {
        println!("diskcheck: there can be no disk {name}");
        shutdown(Reason::Crash)
    };
    println!("diskcheck: waits for {name}");
    let device = disk.ready().await;
    println!(
        "diskcheck: {name} has {} sectors of {} bytes{}",
        device.sectors * SECTOR as u64 / u64::from(device.sector_size),
        device.sector_size,
        if device.read_only { ", read-only" } else { "" },
    );
    if number("sum", 0) != 0 {
        sum(&disk, &device).await;
    } else if device.read_only {
        read_only(&disk).await;
    } else {
        check(disk, device).await;
    }
    // Whoever wants to know looks at the console.
    pending::<()>().await;
}

async fn check(disk: Disk, device: Device) {
    let check = Rc::new(Check {
        disk,
        unit: u64::from(device.sector_size) / SECTOR as u64,
        limit: number("mib", 64) << 20,
        moved: Cell::new(0),
        flushes: Cell::new(0),
        gone: Cell::new(false),
    });
    let start = clock::now();
    let tasks = number("tasks", 8).max(1);
    // Whole sectors of the disk for each, which none of the others touches.
    let share = device.sectors / tasks / check.unit * check.unit;
    let running: Vec<_> = (0..tasks)
        .map(|task| spawn(check.clone().run(task, share)))
        .collect();
    for task in running {
        if let Err(wrong) = task.await {
            println!("diskcheck: WRONG: {wrong:?}");
            shutdown(Reason::Crash)
        }
    }
    let millis = ((clock::now() - start) / 1_000_000).max(1);
    let (moved, flushes) = (check.moved.get(), check.flushes.get());
    println!(
        "diskcheck: {} MiB moved in {millis} ms, {flushes} flushes: all as it was written",
        moved >> 20
    );
}

/// Reads all of the disk, and says what its FNV-1a sum is.
async fn sum(disk: &Disk, device: &Device) {
    let mut sum = 0xcbf2_9ce4_8422_2325_u64;
    let mut bytes = vec![0; MOST as usize * SECTOR];
    let mut at = 0;
    while at < device.sectors {
        let count = (device.sectors - at).min(MOST);
        let bytes = &mut bytes[..count as usize * SECTOR];
        if let Err(error) = disk.read(at, bytes).await {
            println!("diskcheck: WRONG: sector {at} and behind it: {error:?}");
            return;
        }
        for byte in bytes {
            sum = (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
        at += count;
    }
    println!("diskcheck: {at} sectors of {SECTOR} bytes read, their sum is {sum:016x}");
}

async fn read_only(disk: &Disk) {
    let mut sector = [0; SECTOR];
    let read = disk.read(0, &mut sector).await;
    let written = disk.write(0, &sector).await;
    println!("diskcheck: read-only: read {read:?}, written {written:?}");
}

/// What is not as it should be.
#[derive(Debug)]
enum Wrong {
    /// A sector has something else in it.
    Content(#[expect(dead_code, reason = "printed")] u64),
    /// The disk fails.
    Disk(#[expect(dead_code, reason = "printed")] Error),
}

struct Check {
    disk: Disk,
    /// Sectors of 512 bytes in one of the disk's.
    unit: u64,
    /// Bytes to move, 0 for no end.
    limit: u64,
    moved: Cell<u64>,
    flushes: Cell<u64>,
    /// Whether the disk was seen to be away.
    gone: Cell<bool>,
}

impl Check {
    async fn run(self: Rc<Self>, task: u64, share: u64) -> Result<(), Wrong> {
        let first = task * share;
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (task + 1));
        // How often each sector was written; what was never is not known.
        let mut written = vec![0_u32; share as usize];
        let mut bytes = vec![0; MOST as usize * SECTOR];
        let mut generation = 0;
        while self.limit == 0 || self.moved.get() < self.limit {
            let units = share / self.unit;
            let at = random.below(units) * self.unit;
            let count = (random.below(MOST / self.unit) + 1) * self.unit;
            let count = count.min(share - at);
            let sectors = &mut written[at as usize..(at + count) as usize];
            let bytes = &mut bytes[..count as usize * SECTOR];
            match random.below(16) {
                0 => {
                    self.again(async || self.disk.flush().await).await?;
                    self.flushes.set(self.flushes.get() + 1);
                    continue;
                }
                1..9 => {
                    generation += 1;
                    sectors.fill(generation);
                    for (sector, bytes) in (first + at..).zip(bytes.chunks_mut(SECTOR)) {
                        fill(sector, generation, bytes);
                    }
                    self.again(async || self.disk.write(first + at, bytes).await)
                        .await?;
                }
                _ => self.compare(first + at, sectors, bytes).await?,
            }
            self.count(bytes.len() as u64);
        }
        let mut at = 0;
        for sectors in written.chunks(MOST as usize) {
            let bytes = &mut bytes[..sectors.len() * SECTOR];
            self.compare(first + at, sectors, bytes).await?;
            at += sectors.len() as u64;
        }
        Ok(())
    }

    fn count(&self, bytes: u64) {
        let before = self.moved.get();
        self.moved.set(before + bytes);
        if before / REPORT != (before + bytes) / REPORT {
            println!("diskcheck: {} MiB moved", (before + bytes) >> 20);
        }
    }

    /// Reads sectors and compares them with what was last written.
    async fn compare(&self, first: u64, written: &[u32], bytes: &mut [u8]) -> Result<(), Wrong> {
        loop {
            let read = self.disk.read(first, bytes).await;
            if !self.is_away(read).await? {
                break;
            }
        }
        let mut expected = [0; SECTOR];
        let sectors = (first..).zip(written).zip(bytes.chunks(SECTOR));
        for ((sector, generation), found) in sectors {
            if *generation > 0 {
                fill(sector, *generation, &mut expected);
                if found != expected {
                    return Err(Wrong::Content(sector));
                }
            }
        }
        Ok(())
    }

    /// Does something until it is done, however often the disk is taken away meanwhile.
    async fn again(&self, action: impl AsyncFn() -> Result<(), Error>) -> Result<(), Wrong> {
        loop {
            let result = action().await;
            if !self.is_away(result).await? {
                return Ok(());
            }
        }
    }

    /// Whether the disk was away, and is back.
    async fn is_away(&self, result: Result<(), Error>) -> Result<bool, Wrong> {
        match result {
            Ok(()) => Ok(false),
            Err(Error::NotConnected | Error::Lost) => {
                if !self.gone.replace(true) {
                    println!("diskcheck: the disk is gone");
                }
                self.disk.ready().await;
                if self.gone.replace(false) {
                    println!("diskcheck: the disk is back");
                }
                Ok(true)
            }
            Err(other) => Err(Wrong::Disk(other)),
        }
    }
}

/// What a sector holds after it was written for the `generation`th time.
fn fill(sector: u64, generation: u32, bytes: &mut [u8]) {
    let mut word = (sector << 32 | u64::from(generation)).wrapping_mul(0x2545_f491_4f6c_dd1d);
    for place in bytes.chunks_mut(8) {
        word = word.rotate_left(13).wrapping_add(0x9e37_79b9_7f4a_7c15);
        place.copy_from_slice(&word.to_le_bytes());
    }
}

/// Numbers without an evident order (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }
}

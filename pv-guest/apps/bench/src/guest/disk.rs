//! Reads and writes of a disk: of 4 KiB and of 128 KiB, in order and not, one and many at a time. Each line has what
//! the control domain can be asked to do as well.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::Cell;

use pv_guest::block::{Disk, Options};
use pv_guest::store::store;
use pv_guest::{clock, println, spawn};

use super::meter::option;

const SECTOR: u64 = 512;
/// Bytes of an operation, and how many are made.
const SIZES: [(u64, u64); 2] = [(4096, 2000), (128 << 10, 400)];
/// How many are under way at a time.
const DEPTHS: [u64; 2] = [1, 16];

/// A row of operations.
#[derive(Clone, Copy)]
struct Workload {
    write: bool,
    random: bool,
    bytes: u64,
    depth: u64,
    count: u64,
}

/// Measures the disk of that name.
pub async fn run(name: &str) {
    let options = Options {
        persistent: option("persistent") != Some(0),
        ..Options::default()
    };
    let disk = Disk::open(store().expect("a store"), name, options).expect("a disk's name");
    let sectors = disk.ready().await.sectors;
    for (bytes, count) in SIZES {
        for depth in DEPTHS {
            for (write, random) in [(false, false), (false, true), (true, false), (true, true)] {
                let workload = Workload {
                    write,
                    random,
                    bytes,
                    depth,
                    count,
                };
                let ns = workload.run(&disk, sectors * SECTOR / bytes).await;
                let (write, random) = (u8::from(write), u8::from(random));
                println!("disk {write} {random} {bytes} {depth} {count} {ns}");
            }
        }
    }
}

impl Workload {
    /// Nanoseconds that it takes.
    async fn run(self, disk: &Disk, places: u64) -> u64 {
        let next = Rc::new(Cell::new(0));
        let start = clock::now();
        let tasks: Vec<_> = (0..self.depth)
            .map(|_| spawn(self.take_part(disk.clone(), next.clone(), places)))
            .collect();
        for task in tasks {
            task.await;
        }
        clock::now() - start
    }

    async fn take_part(self, disk: Disk, next: Rc<Cell<u64>>, places: u64) {
        let mut bytes = vec![0; self.bytes as usize];
        while next.get() < self.count {
            let nth = next.replace(next.get() + 1);
            let sector = self.place(nth, places) * (self.bytes / SECTOR);
            match self.write {
                true => disk.write(sector, &bytes).await,
                false => disk.read(sector, &mut bytes).await,
            }
            .expect("the disk does it");
        }
    }

    /// Where the operation of that number is, as the control domain has it.
    fn place(self, nth: u64, places: u64) -> u64 {
        match self.random {
            true => nth.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16,
            false => nth,
        }
        .wrapping_rem(places.max(1))
    }
}

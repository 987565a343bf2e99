//! [`Shootdown`]: how a CPU has others flush their TLBs, and waits until they have.
//!
//! A CPU serves what is asked of it where it takes the interrupt that comes with the request, which is in the guest or
//! asleep, and wherever it waits itself. So two CPUs that ask each other, or one that asks the holder of a lock that the
//! other waits for, do not wait for ever.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use crate::flush_clock::MAX_CPUS;

/// Requests between CPUs.
#[derive(Debug)]
pub struct Shootdown {
    /// Whether there ever was a request: until then no CPU need know its own number to serve any.
    used: AtomicBool,
    cpus: [PerCpu; MAX_CPUS],
}

/// Numbers of the last flush that was asked of a CPU, and of the last that it has done.
#[derive(Debug)]
#[repr(align(64))]
struct PerCpu {
    asked: AtomicU64,
    served: AtomicU64,
}

impl Shootdown {
    /// Nothing was asked of anyone.
    pub const fn new() -> Self {
        Self {
            used: AtomicBool::new(false),
            cpus: [const {
                PerCpu {
                    asked: AtomicU64::new(0),
                    served: AtomicU64::new(0),
                }
            }; MAX_CPUS],
        }
    }

    /// Whether there ever was a request.
    pub fn used(&self) -> bool {
        self.used.load(SeqCst)
    }

    /// Has each CPU of `cpus`, bit n for CPU n, flush after this call, and returns when all have. The caller's own is
    /// not among them; `interrupt` interrupts one, `relax` serves the caller's.
    pub fn request(&self, cpus: u64, interrupt: impl Fn(u32), relax: impl Fn()) {
        self.used.store(true, SeqCst);
        let asked = || {
            let all = self.cpus.iter().zip(0_u32..);
            all.filter(|&(_, cpu)| cpus >> cpu & 1 != 0)
        };
        let mut numbers = [0; MAX_CPUS];
        for ((each, cpu), number) in asked().zip(&mut numbers) {
            *number = each.asked.fetch_add(1, SeqCst) + 1;
            interrupt(cpu);
        }
        for ((each, _), &number) in asked().zip(&numbers) {
            while each.served.load(SeqCst) < number {
                relax();
            }
        }
    }

    /// Carries out what was asked of this CPU, `cpu`, if anything was.
    pub fn serve(&self, cpu: u32, flush: impl FnOnce()) {
        let Some(own) = self.cpus.get(cpu as usize) else {
            return;
        };
        // A request that comes from here on finds a flush that may have begun before it, and is served by the next.
        let asked = own.asked.load(SeqCst);
        if own.served.load(SeqCst) != asked {
            flush();
            own.served.store(asked, SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use core::sync::atomic::AtomicU32;
    use std::thread;

    #[test]
    fn a_request_returns_when_all_have_flushed_after_it() {
        let shootdown = Shootdown::new();
        let flushes = [const { AtomicU32::new(0) }; 3];
        let serve = |cpu: usize| {
            shootdown.serve(cpu as u32, || {
                flushes[cpu].fetch_add(1, SeqCst);
            });
        };
        serve(1);
        assert!(!shootdown.used());
        let interrupted = AtomicU64::new(0);
        let interrupt = |cpu: u32| {
            interrupted.fetch_or(1 << cpu, SeqCst);
        };
        // Whoever waits lets the others come to it one after the other.
        let turn = AtomicU32::new(0);
        let relax = || match turn.fetch_add(1, SeqCst) {
            0 => serve(0),
            1 => serve(2),
            _ => serve(1),
        };
        shootdown.request(0b110, interrupt, relax);
        assert!(shootdown.used());
        assert_eq!(interrupted.load(SeqCst), 0b110);
        let counts = flushes.each_ref().map(|count| count.load(SeqCst));
        assert_eq!(counts, [0, 1, 1]);
        serve(1);
        assert_eq!(flushes[1].load(SeqCst), 1, "nothing new was asked");
    }

    #[test]
    fn what_is_asked_during_a_flush_is_served_by_another() {
        let shootdown = Shootdown::new();
        let flushes = AtomicU32::new(0);
        shootdown.cpus[0].asked.store(1, SeqCst);
        for _ in 0..3 {
            shootdown.serve(0, || {
                if flushes.fetch_add(1, SeqCst) == 0 {
                    shootdown.cpus[0].asked.fetch_add(1, SeqCst);
                }
            });
        }
        assert_eq!(flushes.load(SeqCst), 2);
    }

    #[test]
    fn cpus_that_ask_each_other_all_go_on() {
        const CPUS: u32 = 4;
        const ROUNDS: u64 = 500;
        let shootdown = Shootdown::new();
        // What a CPU remembers: the value at its last flush.
        let remembered = [const { AtomicU64::new(0) }; CPUS as usize];
        let truth = AtomicU64::new(0);
        let done = AtomicU32::new(0);
        let relax = |cpu: u32| {
            shootdown.serve(cpu, || {
                remembered[cpu as usize].store(truth.load(SeqCst), SeqCst);
            });
            thread::yield_now();
        };
        thread::scope(|scope| {
            for cpu in 0..CPUS {
                let (shootdown, remembered, truth, done, relax) =
                    (&shootdown, &remembered, &truth, &done, &relax);
                scope.spawn(move || {
                    for _ in 0..ROUNDS {
                        let now = truth.fetch_add(1, SeqCst) + 1;
                        let others = ((1 << CPUS) - 1) & !(1 << cpu);
                        shootdown.request(others, |_| {}, || relax(cpu));
                        for other in (0..CPUS).filter(|&other| other != cpu) {
                            assert!(remembered[other as usize].load(SeqCst) >= now);
                        }
                    }
                    done.fetch_add(1, SeqCst);
                    while done.load(SeqCst) < CPUS {
                        relax(cpu);
                    }
                });
            }
        });
    }
}

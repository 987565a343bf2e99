//! Two domains that ring each other over thousands of event channels, while each vCPU masks and unmasks itself and its
//! ports by chance, has them served by the other vCPU, and gives them priorities.
//!
//! Each end of a line counts how often it rang, in memory that both see, before it does. Who serves an event reads that
//! count and says what he read. So an event is lost where somebody rang and the other end goes on saying a lower count;
//! and one is spurious where a line was served more often than it was rung.

use alloc::vec::Vec;
use core::hint::spin_loop;
use core::sync::atomic::Ordering::SeqCst;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use core::time::Duration;

use hypercall_abi::event_channel::EVTCHN_FIFO_MAX_QUEUES;
use hypercall_abi::types::Port;
use pv_guest::events::{self, EventChannel};
use pv_guest::hypercall::{event_channel, sched};
use pv_guest::store::{self, Store};
use pv_guest::{clock, cpu, println, vcpus, yield_now};
use spin::Once;

use super::meeting::{Meeting, Side};
use super::{Count, Dice, END, ENDED, LIMIT, fail, is_over, wait_until, word};

/// Events that came.
static SERVED: Count = Count::new();
/// Ports, or vCPUs, that were masked for a while.
static MASKED: Count = Count::new();
/// Ports that another vCPU came to serve, or that got another priority.
static MOVED: Count = Count::new();

/// Both domains have seen all rings.
static FINISHED: AtomicBool = AtomicBool::new(false);

/// The lines, once all are connected.
static LINES: Once<Lines> = Once::new();

struct Lines {
    meeting: Meeting,
    lines: Vec<Line>,
    /// By port, the line.
    of_port: Vec<u32>,
}

/// This domain's end of a line.
struct Line {
    channel: EventChannel,
    /// How often it rang.
    rung: AtomicU32,
    /// When it rang first since the other end had seen all.
    since: AtomicU64,
    /// The highest count of the other end's that it saw.
    seen: AtomicU32,
    /// How often it was served.
    served: AtomicU32,
}

/// Rings the domain that the toolstack named, with `vcpus` vCPUs.
pub async fn run(seconds: u64, seed: u64, vcpus: u32) {
    let store = match store::store() {
        Ok(store) => store,
        Err(error) => fail(format_args!("no store: {error}")),
    };
    let lines = word("lines=", 4096) as usize;
    let meeting = Meeting::new(&store, lines).await;
    let channels = connect(&meeting, &store).await;
    let most = channels.iter().map(|channel| channel.port().0).max();
    let mut of_port = alloc::vec![u32::MAX; most.unwrap_or(0) as usize + 1];
    for (channel, line) in channels.iter().zip(0..) {
        of_port[channel.port().0 as usize] = line;
    }
    let lines = channels.into_iter().map(|channel| Line {
        channel,
        rung: AtomicU32::new(0),
        since: AtomicU64::new(0),
        seen: AtomicU32::new(0),
        served: AtomicU32::new(0),
    });
    let lines = LINES.call_once(|| Lines {
        meeting,
        lines: lines.collect(),
        of_port,
    });
    for line in &lines.lines {
        line.channel.set_handler(handle);
    }
    lines.meeting.reach(READY);
    wait_until("the other domain has all lines", || {
        lines.meeting.met(READY)
    })
    .await;
    println!(
        "ring: {} lines, queued: {}",
        lines.lines.len(),
        events::are_queued()
    );
    END.store(clock::now() + seconds * 1_000_000_000, SeqCst);
    for id in 1..vcpus {
        let started = vcpus::start(id, move || work(seed, id, vcpus));
        if let Err(error) = started {
            fail(format_args!("vCPU {id} does not start: {error}"));
        }
    }
    work(seed, 0, vcpus).await;
    wait_until("all workers have ended", || ENDED.load(SeqCst) == vcpus).await;
    lines.meeting.reach(RUNG);
    wait_until("the other domain has rung", || lines.meeting.met(RUNG)).await;
    for number in 0..lines.lines.len() {
        wait_until("all rings are seen", || lines.is_seen(number)).await;
    }
    lines.meeting.reach(DONE);
    wait_until("the other domain has seen all", || lines.meeting.met(DONE)).await;
    FINISHED.store(true, SeqCst);
    let rung: u64 = lines
        .lines
        .iter()
        .map(|line| u64::from(line.rung.load(SeqCst)))
        .sum();
    println!(
        "ring: rung {rung} times, served {}, masked {}, moved {}: none lost, none spurious",
        SERVED.get(),
        MASKED.get(),
        MOVED.get(),
    );
}

/// All lines are connected.
const READY: u32 = 1;
/// It rings no more.
const RUNG: u32 = 2;
/// All that it rang was seen.
const DONE: u32 = 3;

/// Makes the ports of one side, or connects to them.
async fn connect(meeting: &Meeting, store: &Store) -> Vec<EventChannel> {
    let mut channels = Vec::new();
    for number in 0..meeting.lines() {
        let channel = match meeting.side() {
            Side::First => EventChannel::alloc_unbound(meeting.peer()),
            Side::Second => EventChannel::bind_interdomain(meeting.peer(), meeting.port(number)),
        };
        match channel {
            Ok(channel) => channels.push(channel),
            Err(error) => fail(format_args!("no port for line {number}: {error}")),
        }
        if number % 64 == 0 {
            yield_now().await;
        }
    }
    if meeting.side() == Side::First {
        for (number, channel) in channels.iter().enumerate() {
            meeting.set_port(number, channel.port());
        }
        meeting.publish(store).await;
    }
    channels
}

/// Serves an event: says what the other end's count is.
fn handle(port: Port) {
    let Some(lines) = LINES.get() else {
        return;
    };
    let number = lines.of_port[port.0 as usize] as usize;
    let line = &lines.lines[number];
    let served = line.served.fetch_add(1, SeqCst) + 1;
    SERVED.add();
    let count = lines.meeting.rung(number);
    // The end that connects is told once that it might have missed something.
    let at_first = u32::from(lines.meeting.side() == Side::Second);
    if served > count + at_first {
        fail(format_args!(
            "line {number} was rung {count} times, and served {served}"
        ));
    }
    line.seen.fetch_max(count, SeqCst);
    // Both vCPUs may be here for one line: whoever writes last writes the highest.
    loop {
        let seen = line.seen.load(SeqCst);
        lines.meeting.set_seen(number, seen);
        if line.seen.load(SeqCst) == seen {
            break;
        }
    }
}

impl Lines {
    /// Whether the other end has seen all that this one rang.
    fn is_seen(&self, number: usize) -> bool {
        self.meeting.seen(number) == self.lines[number].rung.load(SeqCst)
    }

    /// Rings.
    fn ring(&self, number: usize) {
        let line = &self.lines[number];
        if self.is_seen(number) {
            line.since.store(clock::now(), SeqCst);
        }
        let count = line.rung.fetch_add(1, SeqCst) + 1;
        self.meeting.set_rung(number, count);
        if let Err(error) = line.channel.notify() {
            fail(format_args!("line {number} cannot be rung: {error}"));
        }
    }

    /// The other end sees what this one rings within the limit.
    fn check(&self, number: usize) {
        let line = &self.lines[number];
        let since = line.since.load(SeqCst);
        if since != 0 && !self.is_seen(number) && clock::now() > since + LIMIT {
            let (rung, seen) = (line.rung.load(SeqCst), self.meeting.seen(number));
            fail(format_args!(
                "line {number}: rung {rung} times, and seen {seen}"
            ));
        }
    }
}

/// What each vCPU does: it has every so-manieth line to itself.
async fn work(seed: u64, id: u32, vcpus: u32) {
    let lines = LINES
        .get()
        .unwrap_or_else(|| fail(format_args!("no lines")));
    let own: Vec<usize> = (id as usize..lines.lines.len())
        .step_by(vcpus as usize)
        .collect();
    let mut dice = Dice::of(seed, id);
    // Each at least once.
    for &number in &own {
        lines.ring(number);
    }
    let mut next = 0;
    while !is_over() {
        let number = own[dice.below(own.len() as u64) as usize];
        let channel = &lines.lines[number].channel;
        match dice.below(32) {
            0..18 => lines.ring(number),
            18..23 => {
                MASKED.add();
                channel.mask();
                pause(&mut dice);
                if dice.below(4) == 0 {
                    lines.ring(number);
                }
                channel.unmask();
            }
            23..26 => {
                MASKED.add();
                let masked = cpu::disable_upcalls();
                pause(&mut dice);
                lines.ring(number);
                if !masked {
                    cpu::enable_upcalls();
                }
            }
            26..28 => move_it(channel, &mut dice, vcpus),
            28..30 => sched::yield_now(),
            30 => yield_now().await,
            _ => clock::sleep(Duration::from_micros(dice.below(300))).await,
        }
        next = (next + 1) % own.len();
        lines.check(own[next]);
    }
    ENDED.fetch_add(1, SeqCst);
    if id != 0 {
        // It serves others' rings until there are none.
        wait_until("all is done", || FINISHED.load(SeqCst)).await;
    }
}

/// Has another vCPU serve the line, or gives it another priority.
fn move_it(channel: &EventChannel, dice: &mut Dice, vcpus: u32) {
    MOVED.add();
    let moved = if events::are_queued() && dice.below(2) == 0 {
        let priority = dice.below(EVTCHN_FIFO_MAX_QUEUES.into()) as u32;
        event_channel::set_priority(channel.port(), priority)
    } else {
        channel.serve_on(dice.below(vcpus.into()) as u32)
    };
    if let Err(error) = moved {
        fail(format_args!(
            "port {} cannot be moved: {error}",
            channel.port().0
        ));
    }
}

fn pause(dice: &mut Dice) {
    for _ in 0..dice.below(400) {
        spin_loop();
    }
}

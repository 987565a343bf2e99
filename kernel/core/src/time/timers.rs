//! [`Timers`]: what is to happen at which time, per CPU.
//!
//! A timer is a slot with a payload, which is in the heap of one CPU while it is set. Setting and
//! stopping one does not allocate.

use alloc::vec::Vec;

use super::Due;

/// No deadline.
pub const NEVER: u64 = u64::MAX;

/// A timer's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerId(pub u32);

struct Slot<T> {
    payload: Option<T>,
    deadline: u64,
    /// CPU and place in its heap while it is set.
    place: Option<(usize, usize)>,
}

struct Queue {
    /// Timers that are set, a binary heap by deadline.
    heap: Vec<TimerId>,
    /// When the scheduler is to be asked again.
    slice: u64,
    /// The deadline that the hardware's timer is set to.
    programmed: u64,
}

/// All timers; `T` is what one is about.
pub struct Timers<T = Due> {
    slots: Vec<Slot<T>>,
    free: Vec<TimerId>,
    queues: Vec<Queue>,
}

impl<T: Clone> Timers<T> {
    /// No timers, on `cpus` CPUs.
    pub fn new(cpus: u32) -> Self {
        let queue = || Queue {
            heap: Vec::new(),
            slice: NEVER,
            programmed: NEVER,
        };
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            queues: (0..cpus.max(1)).map(|_| queue()).collect(),
        }
    }

    /// Makes a timer, not set.
    pub fn add(&mut self, payload: T) -> TimerId {
        let slot = Slot {
            payload: Some(payload),
            deadline: NEVER,
            place: None,
        };
        match self.free.pop() {
            Some(id) => {
                self.slots[id.0 as usize] = slot;
                id
            }
            None => {
                self.slots.push(slot);
                TimerId(self.slots.len() as u32 - 1)
            }
        }
    }

    /// Removes a timer.
    pub fn remove(&mut self, id: TimerId) {
        self.stop(id);
        if let Some(slot) = self.slots.get_mut(id.0 as usize)
            && slot.payload.take().is_some()
        {
            self.free.push(id);
        }
    }

    /// Sets a timer, on `cpu`, whether it was set before or not.
    pub fn set(&mut self, id: TimerId, cpu: u32, deadline: u64) {
        let cpu = cpu as usize;
        if cpu >= self.queues.len() {
            return;
        }
        let Some(slot) = self.slots.get(id.0 as usize) else {
            return;
        };
        match slot.place {
            _ if slot.payload.is_none() => {}
            Some((old, place)) if old == cpu => {
                self.slots[id.0 as usize].deadline = deadline;
                let place = self.rise(cpu, place);
                self.sink(cpu, place);
            }
            place => {
                if place.is_some() {
                    self.stop(id);
                }
                let slot = &mut self.slots[id.0 as usize];
                slot.deadline = deadline;
                let place = self.queues[cpu].heap.len();
                slot.place = Some((cpu, place));
                self.queues[cpu].heap.push(id);
                self.rise(cpu, place);
            }
        }
    }

    /// Stops a timer, whether it is set or not.
    pub fn stop(&mut self, id: TimerId) {
        let Some(slot) = self.slots.get_mut(id.0 as usize) else {
            return;
        };
        let Some((cpu, place)) = slot.place.take() else {
            return;
        };
        let heap = &mut self.queues[cpu].heap;
        heap.swap_remove(place);
        if let Some(&moved) = heap.get(place) {
            self.slots[moved.0 as usize].place = Some((cpu, place));
            let place = self.rise(cpu, place);
            self.sink(cpu, place);
        }
    }

    /// The deadline of a timer that is set.
    pub fn deadline(&self, id: TimerId) -> Option<u64> {
        let slot = self.slots.get(id.0 as usize)?;
        slot.place.map(|_| slot.deadline)
    }

    /// Sets the time at which the scheduler of `cpu` is to be asked again.
    pub fn set_slice(&mut self, cpu: u32, until: u64) {
        if let Some(queue) = self.queues.get_mut(cpu as usize) {
            queue.slice = until;
        }
    }

    /// Whether the slice of `cpu` has ended; its end is taken.
    pub fn take_slice_end(&mut self, cpu: u32, now: u64) -> bool {
        let queue = self.queues.get_mut(cpu as usize);
        queue.is_some_and(|queue| {
            let ended = queue.slice <= now;
            if ended {
                queue.slice = NEVER;
            }
            ended
        })
    }

    /// The earliest deadline on `cpu`, [`NEVER`] if there is none.
    pub fn earliest(&self, cpu: u32) -> u64 {
        let Some(queue) = self.queues.get(cpu as usize) else {
            return NEVER;
        };
        let first = queue
            .heap
            .first()
            .map_or(NEVER, |&id| self.slots[id.0 as usize].deadline);
        first.min(queue.slice)
    }

    /// Stops the first timer of `cpu` that is due and returns what it is about.
    pub fn pop_due(&mut self, cpu: u32, now: u64) -> Option<T> {
        let &id = self.queues.get(cpu as usize)?.heap.first()?;
        if self.slots[id.0 as usize].deadline > now {
            return None;
        }
        self.stop(id);
        self.slots[id.0 as usize].payload.clone()
    }

    /// The deadline that the hardware's timer of `cpu` is to be set to, if it would fire too late. One that fires too
    /// early is left: most deadlines are taken back long before they come, and to set the timer each time costs more
    /// than to find, now and then, that nothing is due.
    pub(super) fn program(&mut self, cpu: u32) -> Option<u64> {
        let deadline = self.earliest(cpu);
        let queue = self.queues.get_mut(cpu as usize)?;
        let late = deadline < queue.programmed;
        if late {
            queue.programmed = deadline;
        }
        late.then_some(deadline)
    }

    /// The hardware's timer of `cpu` has fired: it is set to nothing.
    pub(super) fn fired(&mut self, cpu: u32) {
        if let Some(queue) = self.queues.get_mut(cpu as usize) {
            queue.programmed = NEVER;
        }
    }

    fn key(&self, cpu: usize, place: usize) -> Option<u64> {
        let id = self.queues[cpu].heap.get(place)?;
        Some(self.slots[id.0 as usize].deadline)
    }

    fn swap(&mut self, cpu: usize, a: usize, b: usize) {
        self.queues[cpu].heap.swap(a, b);
        for place in [a, b] {
            let id = self.queues[cpu].heap[place];
            self.slots[id.0 as usize].place = Some((cpu, place));
        }
    }

    fn rise(&mut self, cpu: usize, mut place: usize) -> usize {
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.key(cpu, parent) <= self.key(cpu, place) {
                break;
            }
            self.swap(cpu, parent, place);
            place = parent;
        }
        place
    }

    fn sink(&mut self, cpu: usize, mut place: usize) {
        loop {
            let first = [2 * place + 1, 2 * place + 2]
                .into_iter()
                .filter_map(|child| Some((self.key(cpu, child)?, child)))
                .min();
            match first {
                Some((key, child)) if Some(key) < self.key(cpu, place) => {
                    self.swap(cpu, place, child);
                    place = child;
                }
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_timer_set_again_fires_once_at_the_new_time() {
        let mut timers = Timers::new(1);
        let id = timers.add('a');
        timers.set(id, 0, 10);
        timers.set(id, 0, 20);
        assert_eq!(timers.pop_due(0, 19), None);
        assert_eq!(timers.pop_due(0, 20), Some('a'));
        assert_eq!(timers.pop_due(0, NEVER - 1), None);
        assert_eq!(timers.deadline(id), None);
    }

    #[test]
    fn a_timer_moves_with_its_vcpu_to_another_processor() {
        let mut timers = Timers::new(2);
        let id = timers.add('a');
        timers.set(id, 0, 10);
        timers.set(id, 1, 10);
        assert_eq!(timers.earliest(0), NEVER);
        assert_eq!(timers.pop_due(0, 100), None);
        assert_eq!(timers.pop_due(1, 100), Some('a'));
    }

    #[test]
    fn the_end_of_a_slice_counts_as_a_deadline_and_is_taken_once() {
        let mut timers = Timers::<char>::new(1);
        timers.set_slice(0, 30);
        assert_eq!(timers.earliest(0), 30);
        assert!(!timers.take_slice_end(0, 29));
        assert!(timers.take_slice_end(0, 30));
        assert!(!timers.take_slice_end(0, 31));
    }

    #[test]
    fn the_hardware_is_programmed_only_when_it_would_be_late() {
        let mut timers = Timers::new(1);
        assert_eq!(timers.program(0), None);
        let id = timers.add('a');
        timers.set(id, 0, 5);
        assert_eq!(timers.program(0), Some(5));
        assert_eq!(timers.program(0), None);
        timers.fired(0);
        assert_eq!(timers.program(0), Some(5));
        timers.set(id, 0, 9);
        assert_eq!(timers.program(0), None);
        timers.fired(0);
        assert_eq!(timers.program(0), Some(9));
        timers.stop(id);
        assert_eq!(timers.program(0), None);
        timers.fired(0);
        assert_eq!(timers.program(0), None);
    }

    proptest! {
        #[test]
        fn timers_fire_like_a_sorted_list(
            steps in prop::collection::vec((0_u8..5, 0_usize..8, 0_u64..50), 1..200)
        ) {
            let mut timers = Timers::new(2);
            let mut ids = BTreeMap::new();
            let mut model: BTreeMap<usize, (u32, u64)> = BTreeMap::new();
            for (what, n, time) in steps {
                let cpu = (time % 2) as u32;
                match what {
                    0 => {
                        let id = *ids.entry(n).or_insert_with(|| timers.add(n));
                        timers.set(id, cpu, time);
                        model.insert(n, (cpu, time));
                    }
                    1 => if let Some(&id) = ids.get(&n) {
                        timers.stop(id);
                        model.remove(&n);
                    },
                    2 => if let Some(id) = ids.remove(&n) {
                        timers.remove(id);
                        model.remove(&n);
                    },
                    _ => {
                        let due = model.iter().filter(|(_, entry)| entry.0 == cpu && entry.1 <= time);
                        let first = due.map(|(_, entry)| entry.1).min();
                        let popped = timers.pop_due(cpu, time);
                        prop_assert_eq!(popped.and_then(|n| model.remove(&n)).map(|entry| entry.1), first);
                    }
                }
                for cpu in 0..2 {
                    let set = model.values().filter(|entry| entry.0 == cpu);
                    prop_assert_eq!(timers.earliest(cpu), set.map(|entry| entry.1).min().unwrap_or(NEVER));
                }
            }
        }
    }
}

//! The hypervisor's records (`struct t_rec` of Xen's `trace.h`), out of the pieces in which they come.

use hypercall_abi::trace::*;

/// A record with a time stamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The CPU that wrote it.
    pub cpu: u32,
    /// When, in ticks of the time-stamp counter.
    pub tsc: u64,
    /// What happened: `TRC_*`.
    pub event: u32,
    /// What else is said.
    pub data: Vec<u32>,
}

/// The records of all CPUs, each a stream of its own.
#[derive(Debug, Default)]
pub struct Streams {
    /// By CPU, the words that are no whole record yet.
    pending: Vec<Vec<u8>>,
    records: Vec<Record>,
}

/// The bits of a header that are the event's number.
const EVENT: u32 = (1 << TRACE_EXTRA_SHIFT) - 1;

impl Streams {
    /// Takes the next bytes of a CPU; gives those of the records that are whole now.
    pub fn push(&mut self, cpu: u32, bytes: &[u8]) -> Vec<u8> {
        let index = cpu as usize;
        if self.pending.len() <= index {
            self.pending.resize_with(index + 1, Vec::new);
        }
        let pending = &mut self.pending[index];
        pending.extend_from_slice(bytes);
        let mut done = 0;
        while let Some((record, length)) = parse(cpu, &pending[done..]) {
            done += length;
            self.records.extend(record);
        }
        pending.drain(..done).collect()
    }

    /// All records, in the order of time.
    pub fn into_records(self) -> Vec<Record> {
        let mut records = self.records;
        records.sort_by_key(|record| record.tsc);
        records
    }
}

/// The first record, where it is whole, and its length in bytes. One without a time stamp only fills space.
fn parse(cpu: u32, bytes: &[u8]) -> Option<(Option<Record>, usize)> {
    let word = |index: usize| {
        let at = bytes.get(4 * index..4 * index + 4)?;
        Some(u32::from_le_bytes(at.try_into().ok()?))
    };
    let header = word(0)?;
    let stamped = header & TRC_HD_CYCLE_FLAG != 0;
    let first = if stamped { 3 } else { 1 };
    let end = first + (header >> TRACE_EXTRA_SHIFT & TRACE_EXTRA_MAX) as usize;
    bytes.get(..4 * end)?;
    let data = (first..end).map_while(word).collect();
    let event = header & EVENT;
    let record = match (word(1), word(2)) {
        (Some(low), Some(high)) if stamped && event != TRC_TRACE_WRAP_BUFFER => Some(Record {
            cpu,
            tsc: u64::from(low) | u64::from(high) << 32,
            event,
            data,
        }),
        _ => None,
    };
    Some((record, 4 * end))
}

/// A piece as `xentrace` writes it to its files: behind a record that says of which CPU the piece is, and how long.
pub fn chunk(cpu: u32, bytes: &[u8]) -> Vec<u8> {
    let header = TRC_TRACE_CPU_CHANGE | 2 << TRACE_EXTRA_SHIFT;
    let words = [header, cpu, bytes.len() as u32].map(u32::to_le_bytes);
    [words.as_flattened(), bytes].concat()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A record's bytes.
    pub fn bytes(record: &Record) -> Vec<u8> {
        let count = record.data.len() as u32;
        let header = record.event | count << TRACE_EXTRA_SHIFT | TRC_HD_CYCLE_FLAG;
        let stamp = [record.tsc as u32, (record.tsc >> 32) as u32];
        let words = [&[header], &stamp[..], &record.data].concat();
        words.into_iter().flat_map(u32::to_le_bytes).collect()
    }

    fn record(cpu: u32, tsc: u64, data: &[u32]) -> Record {
        Record {
            cpu,
            tsc,
            event: TRC_SCHED_WAKE,
            data: data.into(),
        }
    }

    #[test]
    fn records_are_whole_again_however_they_were_cut() {
        let mut all: Vec<Record> = (0..40_u32)
            .map(|n| {
                let data: Vec<u32> = (0..n % 8).map(|word| word * n).collect();
                record(n % 3, 1 << 33 | u64::from(n), &data)
            })
            .collect();
        for cut in 1..30 {
            let mut streams = Streams::default();
            for cpu in 0..3 {
                let of_cpu = all.iter().filter(|record| record.cpu == cpu);
                let stream: Vec<u8> = of_cpu.flat_map(bytes).collect();
                let pieces = stream.chunks(cut);
                let whole: Vec<u8> = pieces.flat_map(|it| streams.push(cpu, it)).collect();
                assert_eq!(whole, stream);
            }
            assert_eq!(streams.into_records(), all, "{cut}");
        }
        all.truncate(1);
        let mut streams = Streams::default();
        streams.push(0, &bytes(&all[0]));
        streams.push(0, &bytes(&record(0, 5, &[1, 2]))[..16]);
        assert_eq!(streams.into_records(), all, "what is not whole is none");
    }

    #[test]
    fn what_only_fills_space_is_passed_over() {
        let mut streams = Streams::default();
        let filler = [TRC_TRACE_WRAP_BUFFER | 2 << TRACE_EXTRA_SHIFT, 0, 0];
        let long = [
            TRC_TRACE_WRAP_BUFFER | 1 << TRACE_EXTRA_SHIFT | TRC_HD_CYCLE_FLAG,
            0,
            0,
            0,
        ];
        for words in [&filler[..], &long] {
            let bytes: Vec<u8> = words.iter().copied().flat_map(u32::to_le_bytes).collect();
            streams.push(0, &bytes);
        }
        let after = record(0, 9, &[7]);
        streams.push(0, &bytes(&after));
        assert_eq!(streams.into_records(), [after]);
    }

    #[test]
    fn a_piece_in_a_file_says_whose_it_is() {
        let piece = chunk(3, &[1, 2, 3, 4]);
        let header = 0x0001_f003_u32 | 2 << 28;
        let expected: Vec<u8> = [header, 3, 4, 0x0403_0201]
            .into_iter()
            .flat_map(u32::to_le_bytes)
            .collect();
        assert_eq!(piece, expected);
    }
}

//! A timeline as a picture: CPUs above, each vCPU below.

use std::fmt::Write;

use super::timeline::{Slice, State, Timeline, VcpuId};

/// Pixels: the picture's width, the space for names, a row, and the time axis.
const WIDTH: f64 = 960.0;
const NAMES: f64 = 150.0;
const ROW: f64 = 22.0;
const AXIS: f64 = 26.0;
/// Slices that are narrower, and follow each other with such a gap, are one.
const FINEST: f64 = 0.25;

/// Colours of domains, by turns.
const DOMAINS: [&str; 8] = [
    "#7f8c9b", "#2f7ed8", "#e8702a", "#3aa655", "#a05fc4", "#c8a415", "#1aa6a6", "#d6456f",
];

/// Draws a timeline.
pub fn draw(timeline: &Timeline) -> String {
    let rows = timeline.cpus.len() + timeline.vcpus.len();
    let height = AXIS + ROW * rows as f64 + 12.0;
    let mut picture = Picture {
        text: String::new(),
        scale: (WIDTH - NAMES - 10.0) / (timeline.length.max(1) as f64),
        y: AXIS,
    };
    picture.axis(timeline.length, height - 12.0);
    for (cpu, slices) in timeline.cpus.iter().enumerate() {
        let colour = |vcpu: VcpuId| Some(domain_colour(vcpu.domid));
        picture.row(&format!("CPU {cpu}"), slices, colour);
    }
    picture.y += 6.0;
    for (vcpu, slices) in &timeline.vcpus {
        let name = format!("{} v{}", timeline.domain(vcpu.domid), vcpu.vcpu);
        picture.row(&name, slices, |state| match state {
            State::Running => Some(domain_colour(vcpu.domid)),
            State::Runnable => Some("#f3d9a4"),
            State::Blocked | State::Offline => None,
        });
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{}</svg>\n",
        picture.text
    )
}

fn domain_colour(domid: u16) -> &'static str {
    DOMAINS[usize::from(domid) % DOMAINS.len()]
}

struct Picture {
    text: String,
    /// Pixels in a nanosecond.
    scale: f64,
    /// Where the next row is.
    y: f64,
}

impl Picture {
    fn x(&self, at: u64) -> f64 {
        NAMES + at as f64 * self.scale
    }

    // Writing to a string does not fail.
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.text, "{line}");
    }

    /// Some ten lines at round times.
    fn axis(&mut self, length: u64, bottom: f64) {
        let steps = (0..19).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_u64.pow(power)));
        let mut fitting = steps.skip_while(|step| length / step > 12);
        let step = fitting.next().unwrap_or(u64::MAX);
        for at in (0..=length).step_by(step as usize) {
            let x = self.x(at);
            self.line(format_args!(
                "<path d=\"M{x:.1} {AXIS} V{bottom:.1}\" stroke=\"#dddddd\"/>"
            ));
            let text = span(at);
            self.line(format_args!(
                "<text x=\"{x:.1}\" y=\"16\" text-anchor=\"middle\" fill=\"#555555\">{text}</text>"
            ));
        }
    }

    /// A row of slices, of which `colour` says how they look, if at all.
    fn row<T: Copy>(
        &mut self,
        name: &str,
        slices: &[Slice<T>],
        colour: impl Fn(T) -> Option<&'static str>,
    ) {
        let y = self.y;
        let name = name.replace('&', "&amp;").replace('<', "&lt;");
        self.line(format_args!(
            "<text x=\"6\" y=\"{:.1}\" fill=\"#222222\">{name}</text>",
            y + 15.0
        ));
        let mut open: Option<(f64, f64, &str)> = None;
        for slice in slices {
            let Some(colour) = colour(slice.what) else {
                continue;
            };
            let (start, end) = (self.x(slice.start), self.x(slice.end));
            open = match open {
                Some((first, last, same)) if same == colour && start - last < FINEST => {
                    Some((first, end.max(last), same))
                }
                other => {
                    self.bar(other);
                    Some((start, end, colour))
                }
            };
        }
        self.bar(open);
        self.y += ROW;
    }

    fn bar(&mut self, bar: Option<(f64, f64, &str)>) {
        if let Some((start, end, colour)) = bar {
            let (y, width, height) = (self.y + 2.0, (end - start).max(FINEST), ROW - 4.0);
            self.line(format_args!(
                "<rect x=\"{start:.2}\" y=\"{y:.1}\" width=\"{width:.2}\" height=\"{height}\" fill=\"{colour}\"/>"
            ));
        }
    }
}

/// A time with the unit that suits it.
fn span(nanoseconds: u64) -> String {
    let value = nanoseconds as f64;
    match nanoseconds {
        0 => "0".into(),
        1_000_000_000.. => format!("{} s", value / 1e9),
        1_000_000.. => format!("{} ms", value / 1e6),
        1000.. => format!("{} µs", value / 1e3),
        _ => format!("{nanoseconds} ns"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::timeline::tests::two_domains;

    #[test]
    fn each_cpu_and_vcpu_has_a_row_with_a_bar_for_each_slice() {
        let svg = draw(&two_domains());
        for name in ["CPU 0", "CPU 1", "one v0", "\"three\" v0", "1 µs"] {
            assert!(svg.contains(&format!(">{name}</text>")), "{name} in {svg}");
        }
        // Four slices on the CPUs; of the states two were running and two runnable of each vCPU.
        assert_eq!(svg.matches("<rect x=").count(), 4 + 2 + 1 + 2 + 2, "{svg}");
    }

    #[test]
    fn the_time_axis_has_round_times_and_not_too_many() {
        for length in [1, 7, 999, 1000, 12_345, 123_456_789, 30_000_000_000] {
            let timeline = Timeline {
                length,
                ..Timeline::default()
            };
            let lines = draw(&timeline).matches("<path").count();
            assert!((1..=13).contains(&lines), "{lines} lines for {length}");
            assert!(length < 10 || lines > 4, "{lines} lines for {length}");
        }
    }
}

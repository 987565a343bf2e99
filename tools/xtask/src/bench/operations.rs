//! Paravirtual operations as the guest `bench` measures them, under our hypervisor and under Xen.

use super::pairs;
use crate::progress::Step;
use crate::qemu::{Accel, Boot, Hardware, Module, Qemu};
use crate::reference;
use crate::workspace::Workspace;
use anyhow::{Result, bail};
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long one run of the guest may take.
const LIMIT: Duration = Duration::from_secs(300);

/// What begins the names of the figures that are for one page-table entry out of many.
const FILL: &str = "fill-";

/// Operations that are about page tables, and what each of them begins with.
const MEMORY: [&str; 8] = [
    "null-hypercall",
    "update-va-mapping",
    "mmu-update-1",
    "mmu-update-128",
    "page-fault",
    "new-baseptr",
    "invlpg",
    "tlb-flush",
];

/// A figure that is no operation: ticks in a second.
const HERTZ: &str = "tsc-hertz";

/// How the guest is run.
struct Plan {
    accel: Accel,
    runs: usize,
    /// The guest's command line.
    arguments: &'static str,
    unit: &'static str,
}

impl Plan {
    fn new(accel: Accel) -> Self {
        match accel {
            // Runs of the two take turns, and the best counts: what else the machine does comes and goes.
            Accel::Tcg | Accel::Kvm => Self {
                accel,
                runs: 5,
                // Many short batches: one of them hits no interrupt.
                arguments: "xen.fifo_events=0 rounds=40 batches=300",
                unit: "ticks",
            },
            // It comes out the same each time. Waiting takes no instructions.
            Accel::Counted => Self {
                accel,
                runs: 1,
                arguments: "xen.fifo_events=0 rounds=100 batches=3 tables=8 timer=0",
                unit: "instructions",
            },
        }
    }

    /// Makes one run under a hypervisor.
    fn measure(&self, workspace: &Workspace, image: &Path, figures: &mut Figures) -> Result<()> {
        figures.improve(&run_guest(workspace, image, self)?);
        if self.accel != Accel::Counted {
            figures.improve(&pairs::run(workspace, image)?);
        }
        Ok(())
    }
}

/// Figures by name, in the guest's order.
#[derive(Debug, Default, PartialEq)]
struct Figures(Vec<(String, u64)>);

impl Figures {
    /// Takes what is better in `text`, a run's log.
    fn improve(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some("bench"), Some(name), Some(value), None) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                continue;
            };
            let Ok(value) = value.parse::<u64>() else {
                continue;
            };
            match self.0.iter_mut().find(|(known, _)| known == name) {
                Some((_, best)) => *best = value.min(*best),
                None => self.0.push((name.to_owned(), value)),
            }
        }
    }

    fn get(&self, name: &str) -> Option<u64> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| *value)
    }

    /// How many of what `name` takes go into a second, in thousands.
    fn per_second(&self, name: &str) -> Option<f64> {
        Some(self.get(HERTZ)? as f64 / self.get(name)? as f64 / 1e3)
    }
}

/// Measures and prints the tables.
pub fn run(workspace: &Workspace, hypervisor: &Path, accel: Accel) -> Result<()> {
    let plan = Plan::new(accel);
    let step = Step::start(format!("measure {}", plan.unit));
    let xen = reference::xen(workspace);
    if let Err(error) = &xen {
        eprintln!("xtask: measuring without Xen 4.17: {error:#}");
    }
    let (mut ours, mut theirs) = (Figures::default(), Figures::default());
    for number in 1..=plan.runs {
        step.at(format!("run {number} of {}", plan.runs));
        plan.measure(workspace, hypervisor, &mut ours)?;
        if let Ok(xen) = &xen {
            plan.measure(workspace, xen, &mut theirs)?;
        }
    }
    step.done();
    print!("{}", tables(&ours, &theirs, plan.unit));
    Ok(())
}

/// Boots the guest as the hypervisor's dom0, with these words; the directory is to be kept while it runs.
pub fn guest(
    workspace: &Workspace,
    hypervisor: &Path,
    accel: Accel,
    arguments: &str,
) -> Result<(Qemu, TempDir)> {
    let boot = Boot::Kernel {
        image: hypervisor.to_path_buf(),
        command_line: "com1=115200,8n1 console=com1 noreboot dom0_mem=256M dom0_max_vcpus=2"
            .to_owned(),
        modules: vec![Module {
            file: workspace.guests().join("bench"),
            arguments: arguments.to_owned(),
        }],
    };
    let hardware = Hardware {
        accel,
        ..Hardware::default()
    };
    let stage = tempfile::tempdir()?;
    let (qemu, _) = Qemu::start(stage.path(), &hardware, &boot)?;
    Ok((qemu, stage))
}

/// What the guest wrote when it has measured.
fn run_guest(workspace: &Workspace, hypervisor: &Path, plan: &Plan) -> Result<String> {
    let (qemu, _stage) = guest(workspace, hypervisor, plan.accel, plan.arguments)?;
    let log = qemu.log();
    if log
        .wait_for_line("# done", Instant::now() + LIMIT)
        .is_none()
    {
        bail!(
            "the guest did not finish on {}:\n{}",
            hypervisor.display(),
            log.tail(20)
        );
    }
    Ok(log.text())
}

fn tables(ours: &Figures, theirs: &Figures, unit: &str) -> String {
    let mut text =
        format!("\n| operation, {unit} | Xen 4.17 | Xenolith | ratio |\n|---|--:|--:|--:|\n");
    let mut row = |name: &str, theirs: String, ours: String, ratio: Option<f64>| {
        let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        text.push_str(&format!(
            "| {} | {theirs} | {ours} | {ratio} |\n",
            name.replace('-', " ")
        ));
    };
    let shown = |value: Option<u64>| value.map_or_else(String::new, |value| value.to_string());
    let mut ratios = Vec::new();
    for (name, value) in &ours.0 {
        if name == HERTZ || name.starts_with(FILL) {
            continue;
        }
        let ratio = theirs.get(name).map(|theirs| *value as f64 / theirs as f64);
        ratios.extend(ratio.map(|ratio| (name, ratio)));
        row(name, shown(theirs.get(name)), value.to_string(), ratio);
    }
    let of_memory = |name: &String| MEMORY.contains(&name.as_str());
    let memory = ratios.iter().filter(|(name, _)| of_memory(name));
    let means = [
        ("geometric mean", mean(ratios.iter().map(|it| it.1))),
        ("geometric mean of memory's", mean(memory.map(|it| it.1))),
    ];
    for (name, mean) in means.into_iter().filter(|(_, mean)| mean.is_some()) {
        row(name, String::new(), String::new(), mean);
    }
    text.push_str("\n| filling page tables, thousand entries per second | Xen 4.17 | Xenolith | ratio |\n|---|--:|--:|--:|\n");
    let mut row = |name: &str, theirs: Option<f64>, ours: Option<f64>| {
        let shown =
            |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.0}"));
        let ratio = theirs.zip(ours).map_or_else(String::new, |(theirs, ours)| {
            format!("{:.2}", ours / theirs)
        });
        text.push_str(&format!(
            "| {} | {} | {} | {ratio} |\n",
            name.replace('-', " "),
            shown(theirs),
            shown(ours)
        ));
    };
    for (name, _) in &ours.0 {
        if let Some(way) = name.strip_prefix(FILL) {
            row(way, theirs.per_second(name), ours.per_second(name));
        }
    }
    text
}

/// The geometric mean, if there are any.
fn mean(ratios: impl Iterator<Item = f64> + Clone) -> Option<f64> {
    let count = ratios.clone().count();
    (count > 0).then(|| (ratios.map(f64::ln).sum::<f64>() / count as f64).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(texts: &[&str]) -> Figures {
        let mut figures = Figures::default();
        texts.iter().for_each(|text| figures.improve(text));
        figures
    }

    #[test]
    fn the_best_of_several_runs_counts() {
        let figures = figures(&[
            "(XEN) bench x 1\nbench b 7\nbench a 30 40\nbench a 30",
            "bench a 20\nbench b 9",
        ]);
        assert_eq!(figures.0, [("b".to_owned(), 7), ("a".to_owned(), 20)]);
    }

    #[test]
    fn ratios_are_of_time_for_operations_and_of_speed_for_filling() {
        let ours = figures(&[
            "bench tsc-hertz 1000000\nbench tlb-flush 50\nbench c 200\nbench fill-stores 10",
        ]);
        let theirs = figures(&[
            "bench tsc-hertz 1000000\nbench tlb-flush 100\nbench c 100\nbench fill-stores 20",
        ]);
        let text = tables(&ours, &theirs, "ticks");
        for row in [
            "| tlb flush | 100 | 50 | 0.50 |",
            "| c | 100 | 200 | 2.00 |",
            "| geometric mean |  |  | 1.00 |",
            "| geometric mean of memory's |  |  | 0.50 |",
            "| stores | 50 | 100 | 2.00 |",
        ] {
            assert!(text.lines().any(|line| line == row), "{row}\n{text}");
        }
    }

    #[test]
    fn without_xen_our_figures_stand_alone() {
        let text = tables(&figures(&["bench a 50"]), &Figures::default(), "ticks");
        assert!(
            text.contains("| a |  | 50 |  |\n") && !text.contains("mean"),
            "{text}"
        );
    }
}

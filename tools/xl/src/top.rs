//! `xl top`: what the domains use, as xentop shows it.

mod columns;
mod sample;
mod view;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use control::{DomainRef, Reply, Request, SchedulingReply, SchedulingRequest};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use crate::cli::TopArgs;
use crate::host::{Connection, is_no_such_domain, wrong};
use crate::{Outcome, print};
use columns::{cells, heads, name_width, vcpu_lines};
use sample::{Domain, Sample};
use view::{Asked, View};

pub fn top(host: &mut Connection, args: &TopArgs) -> Outcome {
    if args.batch {
        return batch(host, args);
    }
    if !io::stdout().is_terminal() {
        anyhow::bail!("standard output is no terminal: -b is for that");
    }
    let mut view = View {
        delay: args.delay,
        sort: None,
        vcpus: args.vcpus,
        repeat_header: args.repeat_header,
        full_name: args.full_name,
        first: 0,
        prompt: None,
    };
    let mut terminal = ratatui::try_init()?;
    let result = live(host, args, &mut view, &mut terminal);
    ratatui::restore();
    result.map(|()| ExitCode::SUCCESS)
}

/// Samples, draws, and waits for keys, until the user has had enough.
fn live(
    host: &mut Connection,
    args: &TopArgs,
    view: &mut View,
    terminal: &mut ratatui::DefaultTerminal,
) -> anyhow::Result<()> {
    let mut before: Option<Sample> = None;
    let mut left = args.iterations;
    loop {
        let now = take_sample(host, view.vcpus)?;
        let due = Instant::now();
        let clock = jiff::Zoned::now().strftime("%H:%M:%S").to_string();
        left = left.map(|left| left.saturating_sub(1));
        loop {
            terminal.draw(|frame| view.draw(frame, &now, before.as_ref(), &clock))?;
            if left == Some(0) {
                return Ok(());
            }
            let delay = Duration::from_secs(view.delay);
            let patience = delay.saturating_sub(due.elapsed());
            if patience.is_zero() || !event::poll(patience)? {
                break;
            }
            let asked = match event::read()? {
                Event::Key(key) if key.kind == KeyEventKind::Press => {
                    // In raw mode Ctrl-C is a key.
                    let interrupt = key.modifiers.contains(KeyModifiers::CONTROL);
                    match key.code {
                        KeyCode::Char('c') if interrupt => Asked::Quit,
                        code => view.on_key(code),
                    }
                }
                _ => Asked::Nothing,
            };
            match asked {
                Asked::Nothing => {}
                Asked::Sample => break,
                Asked::Quit => return Ok(()),
            }
        }
        before = Some(now);
    }
}

/// Writes the table again and again, without the summary, as xentop does.
fn batch(host: &mut Connection, args: &TopArgs) -> Outcome {
    let mut before: Option<Sample> = None;
    let mut done = 0;
    loop {
        let now = take_sample(host, args.vcpus)?;
        print(&table(&now, before.as_ref(), args))?;
        done += 1;
        if args.iterations.is_some_and(|iterations| done >= iterations) {
            return Ok(ExitCode::SUCCESS);
        }
        before = Some(now);
        thread::sleep(Duration::from_secs(args.delay));
    }
}

fn table(now: &Sample, before: Option<&Sample>, args: &TopArgs) -> String {
    let rows = now.rows(before, None);
    let width = name_width(&rows, args.full_name);
    let mut out = String::new();
    for (index, row) in rows.iter().enumerate() {
        if index == 0 || args.repeat_header {
            out += &(heads(width).join(" ") + "\n");
        }
        out += &(cells(row, width).join(" ") + "\n");
        for line in args.vcpus.then(|| vcpu_lines(row)).into_iter().flatten() {
            out += &(line + "\n");
        }
    }
    out
}

/// Asks for everything at once, and for vCPUs one by one.
fn take_sample(host: &mut Connection, vcpus: bool) -> anyhow::Result<Sample> {
    let info = match host.call(&Request::HostInfo)? {
        Reply::HostInfo(info) => *info,
        other => return Err(wrong(&other).into()),
    };
    let (usage, domains) = host.usage()?;
    let mut sample = Sample {
        time_ns: usage.time_ns,
        idle_ns: usage.idle_ns,
        domains: Vec::new(),
        host: info,
    };
    for info in domains {
        let vcpus = match vcpus {
            true => vcpu_times(host, info.domid)?,
            false => Vec::new(),
        };
        sample.domains.push(Domain { info, vcpus });
    }
    Ok(sample)
}

fn vcpu_times(host: &mut Connection, domid: u16) -> anyhow::Result<Vec<(u32, u64)>> {
    let mut times = Vec::new();
    for vcpu in 0.. {
        let domain = DomainRef::Id(domid);
        let request = Request::Scheduling(SchedulingRequest::Vcpu { domain, vcpu });
        match host.call(&request) {
            Ok(Reply::Scheduling(SchedulingReply::Vcpu { vcpu: Some(it), .. })) => {
                times.extend(it.online.then_some((vcpu, it.cpu_time_ns)));
            }
            Ok(Reply::Scheduling(SchedulingReply::Vcpu { vcpu: None, .. })) => break,
            Ok(other) => return Err(wrong(&other).into()),
            // It went away since it was listed.
            Err(error) if is_no_such_domain(&error) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    use crate::cli::{Cli, Command};

    fn args(line: &str) -> TopArgs {
        let cli = Cli::try_parse_from(line.split(' ')).expect("a command line");
        match cli.command {
            Some(Command::Top(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_batch_has_xentops_columns_and_then_the_events() {
        let names = [(0, "Domain-0", 100), (1, "a-long-name", 200), (2, "c", 300)];
        let now = sample::tests::sample(4, names, [0, 0]);
        let found = table(&now, None, &args("xl top -b"));
        let lines: Vec<&str> = found.lines().collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(
            lines[0],
            "      NAME  STATE   CPU(sec) CPU(%)     MEM(k) MEM(%)  MAXMEM(k) MAXMEM(%) VCPUS NETS \
             NETTX(k) NETRX(k) VBDS   VBD_OO   VBD_RD   VBD_WR  VBD_RSECT  VBD_WSECT SSID     EVENTS EVENTS/s"
        );
        assert_eq!(
            lines[2],
            "a-long-nam ------          2    0.0      65536    6.2     131072      12.5     1    0 \
             \x20      0        0    0        0        0        0          0          0    0        n/a      n/a"
        );
        let full = table(&now, None, &args("xl top -bfrv -d 1 -i 2"));
        assert!(full.contains("a-long-name ------"), "{full}");
        assert_eq!(full.matches("NAME").count(), 3);
        assert_eq!(full.matches("VCPUs(sec):").count(), 3);
    }
}

//! What `xl top` shows on a terminal, and what its keys do.

use ratatui::Frame;
use ratatui::crossterm::event::KeyCode;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::columns::{COLUMNS, cells, heads, name_width, vcpu_lines};
use super::sample::{Row, Sample};

/// What is shown, and how.
#[derive(Clone, Debug)]
pub struct View {
    /// Seconds between two samples.
    pub delay: u64,
    /// The column that the domains are sorted by; none for their numbers.
    pub sort: Option<usize>,
    /// With a line for vCPUs.
    pub vcpus: bool,
    /// With the columns' heads above each domain.
    pub repeat_header: bool,
    /// With names in full.
    pub full_name: bool,
    /// Domains that are scrolled away.
    pub first: usize,
    /// What is being typed as a new delay.
    pub prompt: Option<String>,
}

/// What a key asks of the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Nothing but to be drawn again.
    Nothing,
    /// A new sample.
    Sample,
    /// The end.
    Quit,
}

impl View {
    /// Deals with a key.
    pub fn on_key(&mut self, key: KeyCode) -> Asked {
        if let Some(text) = &mut self.prompt {
            match key {
                KeyCode::Enter => {
                    if let Ok(delay @ 1..) = text.parse() {
                        self.delay = delay;
                    }
                    self.prompt = None;
                }
                KeyCode::Esc => self.prompt = None,
                KeyCode::Backspace => drop(text.pop()),
                KeyCode::Char(letter) if text.len() < 8 => text.push(letter),
                _ => {}
            }
            return Asked::Nothing;
        }
        match key {
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => return Asked::Quit,
            KeyCode::Char('d' | 'D') => self.prompt = Some(String::new()),
            KeyCode::Char('s' | 'S') => {
                // From the last column it goes on with the domains' numbers.
                let next = self.sort.map_or(0, |column| column + 1);
                self.sort = (next < COLUMNS.len()).then_some(next);
            }
            KeyCode::Char('r' | 'R') => self.repeat_header ^= true,
            KeyCode::Char('v' | 'V') => {
                self.vcpus ^= true;
                return Asked::Sample;
            }
            KeyCode::Down => self.first += 1,
            KeyCode::Up => self.first = self.first.saturating_sub(1),
            KeyCode::Char(' ') => return Asked::Sample,
            _ => {}
        }
        Asked::Nothing
    }

    /// Draws a sample, with what was used since the one before.
    pub fn draw(
        &mut self,
        frame: &mut Frame<'_>,
        now: &Sample,
        before: Option<&Sample>,
        clock: &str,
    ) {
        let [summary, table, bottom] = Layout::vertical([
            Constraint::Length(3),
            Constraint::Min(0),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        let rows = now.rows(before, self.sort);
        frame.render_widget(
            Paragraph::new(self.summary(&rows, now, before, clock)),
            summary,
        );
        self.first = self.first.min(rows.len().saturating_sub(1));
        frame.render_widget(Paragraph::new(self.table(&rows)), table);
        frame.render_widget(Paragraph::new(self.bottom()), bottom);
    }

    fn summary(
        &self,
        rows: &[Row],
        now: &Sample,
        before: Option<&Sample>,
        clock: &str,
    ) -> Vec<Line<'static>> {
        // Each domain counts once, for the first of these that it is.
        let mut counts = [0_usize; 6];
        for row in rows {
            let state = &row.domain.info.state;
            let is = [
                state.running,
                state.blocked,
                state.paused,
                row.is_crashed(),
                state.dying,
                row.is_down(),
            ];
            if let Some(index) = is.iter().position(|it| *it) {
                counts[index] += 1;
            }
        }
        let [running, blocked, paused, crashed, dying, down] = counts;
        let host = &now.host;
        let (total, free) = (host.total_memory_kib, host.free_memory_kib);
        let idle = before.map_or(0.0, |before| now.idle_percent(before));
        let version = format!("{}.{}{}", host.xen_major, host.xen_minor, host.xen_extra);
        vec![
            format!("xl top - {clock}   Xen {version}").into(),
            format!(
                "{} domains: {running} running, {blocked} blocked, {paused} paused, \
                 {crashed} crashed, {dying} dying, {down} shutdown",
                rows.len()
            )
            .into(),
            format!(
                "Mem: {total}k total, {}k used, {free}k free    CPUs: {} @ {}MHz, {idle:.1}% idle",
                total.saturating_sub(free),
                host.nr_cpus,
                host.cpu_khz / 1000,
            )
            .into(),
        ]
    }

    fn table(&self, rows: &[Row]) -> Vec<Line<'static>> {
        let width = name_width(rows, self.full_name);
        let head = self.line(heads(width)).style(Modifier::REVERSED);
        let mut lines = Vec::new();
        for (index, row) in rows.iter().skip(self.first).enumerate() {
            if index == 0 || self.repeat_header {
                lines.push(head.clone());
            }
            lines.push(self.line(cells(row, width)));
            if self.vcpus {
                lines.extend(vcpu_lines(row).into_iter().map(Line::from));
            }
        }
        lines
    }

    /// A line of the table, in which the column stands out by which it is sorted.
    fn line(&self, cells: Vec<String>) -> Line<'static> {
        let mut spans = Vec::new();
        for (index, cell) in cells.into_iter().enumerate() {
            if index > 0 {
                spans.push(Span::raw(" "));
            }
            let style = match self.sort == Some(index) {
                true => Style::new().add_modifier(Modifier::BOLD),
                false => Style::new(),
            };
            spans.push(Span::styled(cell, style));
        }
        spans.into()
    }

    fn bottom(&self) -> Line<'static> {
        if let Some(text) = &self.prompt {
            return format!("  Delay(sec): {text}").into();
        }
        let key = |letter: &'static str| Span::styled(letter, Modifier::REVERSED);
        let switch = |text: &'static str, on: bool| match on {
            true => Span::styled(text, Modifier::BOLD),
            false => Span::raw(text),
        };
        vec![
            Span::raw("  "),
            key("D"),
            Span::raw("elay  "),
            key("V"),
            switch("CPUs  ", self.vcpus),
            key("R"),
            switch("epeat header  ", self.repeat_header),
            key("S"),
            Span::raw("ort order  "),
            key("Q"),
            Span::raw("uit"),
        ]
        .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::sample::tests::sample;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::buffer::Buffer;

    fn view() -> View {
        View {
            delay: 3,
            sort: None,
            vcpus: false,
            repeat_header: false,
            full_name: false,
            first: 0,
            prompt: None,
        }
    }

    const NAMES: [&str; 3] = ["Domain-0", "worker", "a-long-name-of-a-guest"];

    fn used(times: [u64; 3]) -> [(u16, &'static str, u64); 3] {
        [0, 1, 2].map(|index| (index as u16, NAMES[index], times[index]))
    }

    fn drawn(view: &mut View, width: u16) -> Buffer {
        let mut before = sample(10, used([100, 200, 300]), [1000, 400]);
        let mut now = sample(14, used([110, 600, 590]), [1080, 420]);
        now.domains[1].info.state.running = true;
        now.domains[2].info.state.blocked = true;
        for (sample, upcalls) in [(&mut before, [100, 0, 40]), (&mut now, [500, 0, 60])] {
            for (domain, upcalls) in sample.domains.iter_mut().zip(upcalls) {
                domain.info.upcalls = Some(upcalls);
            }
        }
        let mut terminal = Terminal::new(TestBackend::new(width, 10)).expect("a terminal");
        let draw = |frame: &mut Frame<'_>| view.draw(frame, &now, Some(&before), "12:34:56");
        terminal.draw(draw).expect("it is drawn");
        terminal.backend().buffer().clone()
    }

    fn lines(buffer: &Buffer) -> Vec<String> {
        let width = usize::from(buffer.area.width);
        let cells: Vec<&str> = buffer.content.iter().map(|cell| cell.symbol()).collect();
        let rows = cells.chunks(width).map(|row| row.concat());
        rows.map(|row| row.trim_end().to_owned()).collect()
    }

    #[test]
    fn the_layout_is_a_summary_a_table_and_the_keys() {
        let found = lines(&drawn(&mut view(), 100));
        let expected = [
            "xl top - 12:34:56   Xen 0.0",
            "3 domains: 1 running, 1 blocked, 0 paused, 0 crashed, 0 dying, 0 shutdown",
            "Mem: 1048576k total, 524288k used, 524288k free    CPUs: 2 @ 2400MHz, 25.0% idle",
            "      NAME  STATE   CPU(sec) CPU(%)     MEM(k) MEM(%)  MAXMEM(k) MAXMEM(%) VCPUS NETS NETTX(k) NETRX",
            "  Domain-0 ------          1    2.5      65536    6.2     131072      12.5     1    0        0",
            "    worker -----r          6  100.0      65536    6.2     131072      12.5     1    0        0",
            "a-long-nam --b---          5   72.5      65536    6.2     131072      12.5     1    0        0",
            "",
            "",
            "  Delay  VCPUs  Repeat header  Sort order  Quit",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn keys_sort_scroll_and_show_vcpus() {
        let mut view = view();
        for _ in 0..4 {
            assert_eq!(view.on_key(KeyCode::Char('s')), Asked::Nothing);
        }
        let found = lines(&drawn(&mut view, 60));
        assert!(
            found[4].contains("worker") && found[6].contains("Domain-0"),
            "{found:?}"
        );
        let bold = drawn(&mut view, 60).cell((33, 5)).expect("a cell").modifier;
        assert!(
            bold.contains(Modifier::BOLD),
            "the column sorted by stands out"
        );
        assert_eq!(view.on_key(KeyCode::Char('v')), Asked::Sample);
        view.on_key(KeyCode::Char('R'));
        view.on_key(KeyCode::Down);
        let found = lines(&drawn(&mut view, 60));
        assert!(found[4].contains("a-long-nam"), "{found:?}");
        assert_eq!(found[5], "VCPUs(sec):   0:          5s");
        assert!(
            found[6].contains("NAME") && found[7].contains("Domain-0"),
            "{found:?}"
        );
        for _ in 0..9 {
            view.on_key(KeyCode::Down);
        }
        assert!(
            lines(&drawn(&mut view, 60))[4].contains("Domain-0"),
            "the last one stays"
        );
        assert_eq!(view.first, 2);
        for _ in 0..COLUMNS.len() - 3 {
            view.on_key(KeyCode::Char('S'));
        }
        assert_eq!(view.sort, None);
        assert_eq!(view.on_key(KeyCode::Esc), Asked::Quit);
    }

    #[test]
    fn a_wide_terminal_shows_events_which_keys_sort_by() {
        let mut view = view();
        for _ in 0..COLUMNS.len() {
            view.on_key(KeyCode::Char('s'));
        }
        let found = lines(&drawn(&mut view, 200));
        let ends = [
            " EVENTS EVENTS/s",
            "    500      100",
            "     60        5",
            "      0        0",
        ];
        for (line, end) in found[3..7].iter().zip(ends) {
            assert!(line.ends_with(end), "{found:?}");
        }
    }

    #[test]
    fn a_delay_is_typed() {
        let mut view = view();
        let mut keys = |text: &str, last: KeyCode| {
            view.on_key(KeyCode::Char('d'));
            for letter in text.chars() {
                assert_eq!(view.on_key(KeyCode::Char(letter)), Asked::Nothing);
            }
            let shown = lines(&drawn(&mut view, 60)).pop();
            view.on_key(last);
            (shown.unwrap_or_default(), view.delay)
        };
        assert_eq!(keys("10", KeyCode::Enter), ("  Delay(sec): 10".into(), 10));
        assert_eq!(keys("0", KeyCode::Enter).1, 10);
        assert_eq!(keys("q", KeyCode::Enter).1, 10);
        assert_eq!(keys("20", KeyCode::Esc).1, 10);
        assert_eq!(view.on_key(KeyCode::Char('Q')), Asked::Quit);
    }

    #[test]
    fn a_terminal_that_is_too_small_is_no_trouble() {
        for width in [1, 5] {
            drawn(&mut view(), width);
        }
    }
}

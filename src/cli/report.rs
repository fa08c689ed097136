//! Output for people and for programs.

use std::io::{self, Write};

use comfy_table::{ColumnConstraint, Table, Width};
use serde::Serialize;

use super::Failure;

/// How a command answers.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Format {
    /// Answer with one line of JSON.
    #[arg(long)]
    pub(super) json: bool,
}

impl Format {
    /// Writes `value` as JSON, or what `text` makes of it.
    pub(super) fn print<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        print(&self.line(value, text)?)
    }

    /// `value` as JSON, or what `text` makes of it.
    pub(super) fn line<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> Result<String, Failure> {
        let line = if self.json { serde_json::to_string(value)? } else { text(value) };
        Ok(line.trim_end().to_owned())
    }
}

/// Writes a line to standard output. A reader that has gone (a closed pipe) is no failure of the command.
pub(super) fn print(line: &str) -> Result<(), Failure> {
    is_read(line).map(drop)
}

/// Writes a line to standard output; false where its reader has gone.
pub(super) fn is_read(line: &str) -> Result<bool, Failure> {
    let mut output = io::stdout().lock();
    match writeln!(output, "{line}").and_then(|()| output.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(format!("standard output cannot be written: {error}").into()),
    }
}

/// Bytes as people read them.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Columns that tables and sentences fit in: those of the terminal, where output goes to one, within what people read.
pub(super) fn columns() -> u16 {
    terminal_size::terminal_size_of(io::stdout())
        .map_or(COLUMNS_MIN, |(width, _)| width.0.clamp(COLUMNS_MIN, COLUMNS_MAX))
}

/// Columns where there is no terminal, or a narrower one.
pub(super) const COLUMNS_MIN: u16 = 80;
const COLUMNS_MAX: u16 = 160;

/// Text as a terminal may show it: what is no visible character is escaped.
fn visible(text: &str) -> String {
    let escape = |c: char| match c {
        '\'' | '"' | '\\' => c.to_string(),
        _ => c.escape_debug().to_string(),
    };
    text.chars().map(escape).collect()
}

/// A table without lines around it, `width` columns wide. Cells that are too long for a line are broken, words of the
/// heading never.
pub(super) fn table<const N: usize>(
    width: u16,
    heading: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = blank_table(width);
    table.set_header(heading);
    for row in rows {
        table.add_row(row.map(|cell| visible(&cell)));
    }
    let wanted: usize = table.column_max_content_widths().into_iter().map(usize::from).sum();
    let space = if wanted + 2 * (N - 1) <= width.into() { 2 } else { 1 };
    for (column, title) in table.column_iter_mut().zip(heading) {
        let title = u16::try_from(title.chars().count()).unwrap_or(u16::MAX);
        column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(title.saturating_add(space))));
    }
    drawn(table, space)
}

/// A list of sentences, each as many lines as it needs.
pub(super) fn bullets(width: u16, sentences: &[String]) -> String {
    let mut table = blank_table(width);
    for sentence in sentences {
        table.add_row(["-".to_owned(), visible(sentence)]);
    }
    drawn(table, 1)
}

/// A sentence, as many lines as it needs.
pub(super) fn sentence(width: u16, text: &str) -> String {
    let mut table = blank_table(width);
    table.add_row([visible(text)]);
    drawn(table, 0)
}

fn blank_table(width: u16) -> Table {
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic).set_width(width);
    table
}

/// The table as text, with so many spaces between its columns.
fn drawn(mut table: Table, space: u16) -> String {
    let last = table.column_count().saturating_sub(1);
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if at == last { 0 } else { space }));
    }
    // Rows end where their text does.
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_steers_a_terminal_and_no_line_is_too_long() {
        let hostile = format!("\u{1b}[2J\n\u{202e}\u{7}{}", "x".repeat(200));
        for width in [80, 120] {
            let tables = [
                table(width, ["A", "B"], [[hostile.clone(), hostile.clone()]]),
                bullets(width, &[hostile.clone(), "short".to_owned()]),
                sentence(width, &hostile),
            ];
            for text in tables {
                assert!(!text.contains(['\u{1b}', '\u{202e}', '\u{7}']) && text.contains("\\u{1b}[2J\\n"), "{text}");
                let longest = text.lines().map(|line| line.chars().count()).max();
                assert!(longest.is_some_and(|longest| longest <= width.into() && longest > 70), "{text}");
            }
        }
        assert_eq!(visible(r#"it's "é" \ 名"#), r#"it's "é" \ 名"#);
    }

    /// "MICROSECO / NDS".
    #[test]
    fn a_heading_is_never_broken() {
        let heading = ["NAME", "MICROSECONDS", "REFERENCE", "SOMETHING", "ELSE", "VERIFIED"];
        let long = || "a long text in small words ".repeat(3);
        let text = table(80, heading, [[long(), "1".to_owned(), long(), long(), long(), long()]]);
        let first: Vec<_> = text.lines().next().expect("a heading").split_whitespace().collect();
        assert_eq!(first, heading, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(5 << 40), "5.0 TiB");
        assert_eq!(size(u64::MAX), "16777216.0 TiB");
    }
}

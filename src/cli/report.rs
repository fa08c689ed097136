//! Output for people and for programs.

use std::io::{self, Write};

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

/// Columns of a terminal that tables and sentences fit in.
const WIDTH: u16 = 80;

/// Text as a terminal may show it: what is no visible character is escaped.
fn visible(text: &str) -> String {
    let escape = |c: char| match c {
        '\'' | '"' | '\\' => c.to_string(),
        _ => c.escape_debug().to_string(),
    };
    text.chars().map(escape).collect()
}

/// A table without lines around it. Cells that are too long for a line are broken.
pub(super) fn table<const N: usize>(heading: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = blank_table();
    table.set_header(heading);
    for row in rows {
        table.add_row(row.map(|cell| visible(&cell)));
    }
    drawn(table, 2)
}

/// A list of sentences, each as many lines as it needs.
pub(super) fn bullets(sentences: &[String]) -> String {
    let mut table = blank_table();
    for sentence in sentences {
        table.add_row(["-".to_owned(), visible(sentence)]);
    }
    drawn(table, 1)
}

/// A sentence, as many lines as it needs.
pub(super) fn sentence(text: &str) -> String {
    let mut table = blank_table();
    table.add_row([visible(text)]);
    drawn(table, 0)
}

fn blank_table() -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic).set_width(WIDTH);
    table
}

/// The table as text, with so many spaces between its columns.
fn drawn(mut table: comfy_table::Table, space: u16) -> String {
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, space));
    });
    // Rows end where their text does.
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_steers_a_terminal_and_no_line_is_too_long() {
        let hostile = format!("\u{1b}[2J\n\u{202e}\u{7}{}", "x".repeat(200));
        let tables = [
            table(["A", "B"], [[hostile.clone(), hostile.clone()]]),
            bullets(&[hostile.clone(), "short".to_owned()]),
            sentence(&hostile),
        ];
        for text in tables {
            assert!(!text.contains(['\u{1b}', '\u{202e}', '\u{7}']) && text.contains("\\u{1b}[2J\\n"), "{text}");
            assert!(text.lines().all(|line| line.chars().count() <= WIDTH.into()), "{text}");
        }
        assert_eq!(visible(r#"it's "é" \ 名"#), r#"it's "é" \ 名"#);
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

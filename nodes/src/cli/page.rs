//! Text for people: aligned tables, facts with labels, colours only where a terminal shows them.
//!
//! Whatever the server sent is stripped of control characters here, once: a flag's description must not be able to
//! move the cursor of the person who lists it.

use std::fmt::Write as _;

/// How a piece of text is meant; a colour only ever repeats what the words say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Strong,
    Faint,
    Good,
    Warn,
    Bad,
}

impl Tone {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Strong => "\x1b[1m",
            Self::Faint => "\x1b[2m",
            Self::Good => "\x1b[32m",
            Self::Warn => "\x1b[33m",
            Self::Bad => "\x1b[31m",
        }
    }
}

/// A cell of a table.
#[derive(Debug, Clone)]
pub struct Cell {
    text: String,
    tone: Tone,
    right: bool,
}

impl Cell {
    pub fn new(text: impl AsRef<str>) -> Self {
        Self {
            text: text.as_ref().chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
            tone: Tone::Plain,
            right: false,
        }
    }

    /// Numbers align on the right.
    pub fn number(text: impl AsRef<str>) -> Self {
        Self { right: true, ..Self::new(text) }
    }

    #[must_use]
    pub fn tone(mut self, tone: Tone) -> Self {
        self.tone = tone;
        self
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text)
    }
}

/// Widest cell on a terminal; longer text is cut there and marked. A pipe, a file and `-o json` have it whole.
const MAX_CELL: usize = 90;

fn cut(text: &mut String) {
    if let Some((at, _)) = text.char_indices().nth(MAX_CELL - 1)
        && text.chars().count() > MAX_CELL
    {
        text.truncate(at);
        text.push('…');
    }
}

/// A page being written.
#[derive(Debug, Default)]
pub struct Page {
    colour: bool,
    cuts: bool,
    text: String,
}

impl Page {
    #[must_use]
    pub fn new(colour: bool) -> Self {
        Self { colour, ..Self::default() }
    }

    /// Whether cells are cut to what a terminal shows.
    #[must_use]
    pub fn cutting(self, cuts: bool) -> Self {
        Self { cuts, ..self }
    }

    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }

    fn paint(&self, tone: Tone, text: &str) -> String {
        if self.colour && tone != Tone::Plain && !text.is_empty() {
            format!("{}{text}\x1b[0m", tone.code())
        } else {
            text.to_owned()
        }
    }

    /// A line of text; long ones are the terminal's to wrap.
    pub fn line(&mut self, tone: Tone, text: impl AsRef<str>) {
        let stripped: String = text.as_ref().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let painted = self.paint(tone, &stripped);
        let _ = writeln!(self.text, "{painted}");
    }

    pub fn blank(&mut self) {
        self.text.push('\n');
    }

    /// A headline above what follows.
    pub fn heading(&mut self, text: &str) {
        if !self.text.is_empty() {
            self.blank();
        }
        self.line(Tone::Strong, text);
    }

    /// Labels and values, aligned; empty values are left out.
    pub fn facts<const N: usize>(&mut self, facts: [(&str, String); N]) {
        let width =
            facts.iter().filter(|(_, v)| !v.is_empty()).map(|(label, _)| label.len()).max().unwrap_or(0);
        for (label, value) in facts {
            if !value.is_empty() {
                let value: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
                let painted = self.paint(Tone::Faint, &format!("{label:<width$}"));
                let _ = writeln!(self.text, "{painted}  {value}");
            }
        }
    }

    /// Rows under headings. With no rows it says `none` in the words given.
    pub fn table(&mut self, headings: &[&str], mut rows: Vec<Vec<Cell>>, none: &str) {
        if rows.is_empty() {
            self.line(Tone::Faint, none);
            return;
        }
        if self.cuts {
            rows.iter_mut().flatten().for_each(|cell| cut(&mut cell.text));
        }
        let mut widths: Vec<usize> = headings.iter().map(|heading| heading.chars().count()).collect();
        let mut right: Vec<bool> = vec![false; headings.len()];
        for row in &rows {
            for ((width, right), cell) in widths.iter_mut().zip(&mut right).zip(row) {
                *width = (*width).max(cell.text.chars().count());
                *right |= cell.right;
            }
        }
        let heads = headings.iter().zip(&right).map(|(heading, right)| Cell {
            text: (*heading).to_owned(),
            tone: Tone::Faint,
            right: *right,
        });
        self.row(heads.collect(), &widths);
        for row in rows {
            self.row(row, &widths);
        }
    }

    fn row(&mut self, cells: Vec<Cell>, widths: &[usize]) {
        let mut line = String::new();
        let last = cells.len().saturating_sub(1);
        for (place, (cell, width)) in cells.iter().zip(widths).enumerate() {
            let space = " ".repeat(width.saturating_sub(cell.text.chars().count()));
            let painted = self.paint(cell.tone, &cell.text);
            match (cell.right, place == last) {
                (true, _) => {
                    let _ = write!(line, "{space}{painted}");
                }
                (false, true) => line.push_str(&painted),
                (false, false) => {
                    let _ = write!(line, "{painted}{space}");
                }
            }
            if place != last {
                line.push_str("  ");
            }
        }
        let _ = writeln!(self.text, "{}", line.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_numbers_stand_right() {
        let mut page = Page::new(false);
        page.table(
            &["ARM", "UNITS"],
            vec![
                vec!["control".into(), Cell::number("44,700")],
                vec![Cell::new("größer").tone(Tone::Good), Cell::number("9")],
            ],
            "no arms",
        );
        assert_eq!(page.into_text(), "ARM       UNITS\ncontrol  44,700\ngrößer        9\n");
    }

    #[test]
    fn colour_only_when_asked_and_never_from_the_data() {
        let mut page = Page::new(true);
        page.line(Tone::Bad, "tripped \x1b[2J");
        assert_eq!(page.into_text(), "\x1b[31mtripped  [2J\x1b[0m\n");
        let mut page = Page::new(false);
        page.line(Tone::Bad, "tripped");
        page.facts([("owner", "payments".into()), ("empty", String::new()), ("description", "x\ny".into())]);
        assert_eq!(page.into_text(), "tripped\nowner        payments\ndescription  x y\n");
    }

    #[test]
    fn an_empty_table_says_so_and_a_terminal_cuts_long_cells() {
        let mut page = Page::new(false).cutting(true);
        page.table(&["KEY"], vec![], "no flags");
        page.table(&["KEY"], vec![vec!["x".repeat(200).into()]], "");
        let text = page.into_text();
        assert!(text.starts_with("no flags\nKEY\n"));
        assert!(
            text.lines().last().is_some_and(|line| line.chars().count() == MAX_CELL && line.ends_with('…'))
        );
        let mut piped = Page::new(false);
        piped.table(&["KEY"], vec![vec!["x".repeat(200).into()]], "");
        assert_eq!(piped.into_text(), format!("KEY\n{}\n", "x".repeat(200)));
    }
}

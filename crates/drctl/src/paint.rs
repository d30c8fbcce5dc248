//! Colour, where somebody sees it: on a terminal, unless `NO_COLOR` says otherwise. Meaning is never in colour alone.

use std::io::IsTerminal;

/// Paints words, or leaves them as they are.
#[derive(Clone, Copy, Debug)]
pub struct Paint {
    on: bool,
}

impl Paint {
    /// For what goes to standard output.
    pub fn stdout() -> Paint {
        Paint { on: std::io::stdout().is_terminal() && wanted() }
    }

    /// For what goes to standard error.
    pub fn stderr() -> Paint {
        Paint { on: std::io::stderr().is_terminal() && wanted() }
    }

    fn code(self, code: &str, text: &str) -> String {
        if self.on { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// A heading.
    pub fn bold(self, text: &str) -> String {
        self.code("1", text)
    }

    /// Beside the point.
    pub fn dim(self, text: &str) -> String {
        self.code("2", text)
    }

    /// As it should be.
    pub fn good(self, text: &str) -> String {
        self.code("32", text)
    }

    /// Not as it should be.
    pub fn bad(self, text: &str) -> String {
        self.code("1;31", text)
    }

    /// Somebody should look.
    pub fn doubt(self, text: &str) -> String {
        self.code("33", text)
    }
}

/// <https://no-color.org>: any value but the empty one.
fn wanted() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Columns that line up, without lines between them. Widths are those of the plain text.
#[derive(Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Adds a row.
    pub fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// The rows, indented by two; `paint` sees the column and the padded text of each cell.
    pub fn lines(&self, paint: impl Fn(usize, usize, &str) -> String) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            let mut line = String::from("  ");
            for (column, cell) in row.iter().enumerate() {
                let last = column + 1 == row.len();
                let padded = if last { cell.clone() } else { format!("{cell:<width$}  ", width = widths[column]) };
                line.push_str(&paint(number, column, &padded));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

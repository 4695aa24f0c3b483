//! Columns of text for a terminal.

/// Between two columns.
const GAP: &str = "  ";

/// How a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Lines of columns as wide as their widest cell, under their names. Every row has a cell for
/// each column. Control characters, which could play with the terminal, become spaces.
pub fn render<const COLUMNS: usize>(
    columns: [(&str, Align); COLUMNS],
    rows: &[[String; COLUMNS]],
) -> String {
    let rows: Vec<[String; COLUMNS]> = rows.iter().map(|row| row.clone().map(plain)).collect();
    let heads = columns.map(|(name, _)| name.to_owned());
    let mut widths = [0; COLUMNS];
    for row in std::iter::once(&heads).chain(&rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in std::iter::once(&heads).chain(&rows) {
        let cells = row.iter().zip(widths).zip(columns);
        let line: Vec<String> = cells
            .map(|((cell, width), (_, align))| match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            })
            .collect();
        text.push_str(line.join(GAP).trim_end());
        text.push('\n');
    }
    text
}

fn plain(cell: String) -> String {
    cell.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |name: &str, count: &str, note: &str| [name, count, note].map(str::to_owned);
        let columns = [("NAME", Align::Left), ("N", Align::Right), ("NOTE", Align::Left)];
        let text = render(columns, &[row("ä", "7", ""), row("longer", "1000", "\x1b[31mred\n")]);
        let expected = "NAME       N  NOTE\n\
                        ä          7\n\
                        longer  1000   [31mred\n";
        assert_eq!(text, expected);
        assert_eq!(render(columns, &[]), "NAME  N  NOTE\n");
    }
}

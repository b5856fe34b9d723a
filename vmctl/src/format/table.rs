//! Columns of text.

/// The least width of a column, with the space after it.
const MIN_WIDTH: usize = 10;

/// Spaces after the longest cell of a column.
const PADDING: usize = 3;

/// Aligns lines whose cells are separated by tabs. The last cell of a line is in no column.
pub(super) fn align(lines: &[String]) -> String {
    let lines: Vec<Vec<&str>> = lines
        .iter()
        .flat_map(|line| line.split('\n'))
        .map(|line| line.split('\t').collect())
        .collect();
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let mut widths = vec![0; columns];
    for cells in &lines {
        for (cell, width) in cells.iter().zip(&mut widths).take(cells.len() - 1) {
            *width = (cell.chars().count() + PADDING).max(MIN_WIDTH).max(*width);
        }
    }
    let mut text = String::new();
    for cells in &lines {
        for (at, cell) in cells.iter().enumerate() {
            text.push_str(cell);
            if at + 1 < cells.len() {
                text.extend(std::iter::repeat_n(' ', widths[at] - cell.chars().count()));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::align;

    #[test]
    fn columns_are_at_least_ten_wide_and_the_last_is_not_padded() {
        let lines = ["A\tPORTS\tNAMES", "0123456789\t\tü", "x\t\ty\tz"].map(str::to_owned);
        let expected = "\
            A            PORTS     NAMES\n\
            0123456789             ü\n\
            x                      y         z\n";
        assert_eq!(align(&lines), expected);
        assert_eq!(align(&["one".to_owned()]), "one\n");
    }
}

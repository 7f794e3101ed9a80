//! Columns as Go's tabwriter sets them for docker-machine: at least 5 wide, 3 spaces between, the last one ragged.

const MINIMUM_WIDTH: usize = 5;
const PADDING: usize = 3;

/// Lays out lines whose cells are separated by tabs.
pub(crate) fn align(lines: &[String]) -> String {
    let rows: Vec<Vec<&str>> = lines.iter().map(|line| line.split('\t').collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let longest = rows
            .iter()
            // The last cell of a row ends it and widens no column.
            .filter(|row| column + 1 < row.len())
            .map(|row| row[column].chars().count() + PADDING)
            .max();
        longest.unwrap_or(0).max(MINIMUM_WIDTH)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            if column + 1 == row.len() {
                text.push_str(cell);
            } else {
                text.push_str(&format!("{cell:<width$}", width = widths[column]));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns() {
        let lines = ["NAME\tX\tLAST", "a\tlonger\t", "bcdef\t-\tz"].map(String::from);
        assert_eq!(
            super::align(&lines),
            "NAME    X        LAST\na       longer   \nbcdef   -        z\n"
        );
    }
}

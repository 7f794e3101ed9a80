//! The table that is printed at the end.

use std::fmt;

/// One row: two figures and their ratio, with the bound it must keep where there is one.
struct Row {
    what: String,
    ours: String,
    theirs: String,
    ratio: Option<f64>,
    bound: Option<f64>,
    meets: bool,
}

#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// Ours divided by theirs; `bound` is the largest ratio that is good enough.
    pub(crate) fn ratio(
        &mut self,
        what: &str,
        unit: &str,
        ours: f64,
        theirs: f64,
        bound: Option<f64>,
    ) {
        let ratio = ours / theirs;
        self.rows.push(Row {
            what: what.to_owned(),
            ours: format!("{ours:.1} {unit}"),
            theirs: format!("{theirs:.1} {unit}"),
            ratio: Some(ratio),
            bound,
            meets: bound.is_none_or(|bound| ratio <= bound),
        });
        self.echo();
    }

    /// A figure of ours with a bound of its own.
    pub(crate) fn figure(&mut self, what: &str, unit: &str, ours: f64, limit: Option<f64>) {
        self.rows.push(Row {
            what: what.to_owned(),
            ours: format!("{ours:.1} {unit}"),
            theirs: limit.map_or_else(String::new, |limit| format!("limit {limit:.1} {unit}")),
            ratio: None,
            bound: None,
            meets: limit.is_none_or(|limit| ours <= limit),
        });
        self.echo();
    }

    /// Ours as a share of theirs; `least` is the smallest that is good enough.
    pub(crate) fn share(&mut self, what: &str, unit: &str, ours: f64, theirs: f64, least: f64) {
        let ratio = ours / theirs;
        self.rows.push(Row {
            what: what.to_owned(),
            ours: format!("{ours:.1} {unit}"),
            theirs: format!("{theirs:.1} {unit}"),
            ratio: Some(ratio),
            bound: (least > 0.0).then_some(least),
            meets: ratio >= least,
        });
        self.echo();
    }

    pub(crate) fn has_missed(&self) -> bool {
        self.rows.iter().any(|row| !row.meets)
    }

    /// Each row as soon as it is known: a benchmark takes minutes.
    fn echo(&self) {
        if let Some(row) = self.rows.last() {
            println!("  {}: {} / {}", row.what, row.ours, row.theirs);
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<44} {:>12} {:>16} {:>9} {:>7}",
            "", "berth", "peer", "ratio", "bound"
        )?;
        for row in &self.rows {
            let ratio = row
                .ratio
                .map_or_else(String::new, |ratio| format!("{ratio:.3}"));
            let bound = row
                .bound
                .map_or_else(String::new, |bound| format!("{bound:.3}"));
            let mark = if row.meets { "" } else { "  MISSED" };
            writeln!(
                f,
                "{:<44} {:>12} {:>16} {ratio:>9} {bound:>7}{mark}",
                row.what, row.ours, row.theirs
            )?;
        }
        Ok(())
    }
}

/// The one in the middle of what was measured; `list` is not empty.
pub(crate) fn median(mut list: Vec<f64>) -> f64 {
    list.sort_by(f64::total_cmp);
    list[list.len() / 2]
}

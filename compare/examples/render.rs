//! Draws a report: `cargo run -p compare --example render -- REPORT.json [WIDTH]`.

use std::{env, fs};

use compare::model::Report;
use compare::report::terminal::{TableOptions, table};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = env::args().skip(1);
    let path = arguments.next().ok_or("which report?")?;
    let report = Report::from_json(&fs::read_to_string(path)?)?;
    let width = arguments.next().map_or(Ok(80), |width| width.parse())?;
    print!("{}", table(&report, &TableOptions { width, ..TableOptions::default() }));
    Ok(())
}

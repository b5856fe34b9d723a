//! Draws a report: `cargo run -p compare --example render -- REPORT.json [OUT.html|OUT.csv|WIDTH]`.

use std::io::IsTerminal as _;
use std::{env, fs};

use compare::model::Report;
use compare::report::terminal::{TableOptions, table};
use compare::report::{csv, html};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = env::args().skip(1);
    let path = arguments.next().ok_or("which report?")?;
    let report = Report::from_json(&fs::read_to_string(path)?)?;
    match arguments.next() {
        Some(out) if out.ends_with(".html") => fs::write(out, html::page(&report))?,
        Some(out) if out.ends_with(".csv") => csv::write(&report, fs::File::create(out)?)?,
        width => {
            let width = width.map_or(Ok(80), |width| width.parse())?;
            let terminal = std::io::stdout().is_terminal();
            print!("{}", table(&report, &TableOptions::of_environment(width, terminal)));
        }
    }
    Ok(())
}

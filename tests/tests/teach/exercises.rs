//! Every exercise: started, found unsolved, solved, found solved, and gone without a trace.

use anyhow::{Result, ensure};

use crate::support::host;

fn can_be_solved(name: &str, steps: usize) -> Result<()> {
    let host = host()?;
    let before = host.everything()?;
    let said = host.say_lab(&format!("start {name}"))?;
    ensure!(said.code == 0 && said.out.starts_with("# "), "{said:#?}");
    ensure!(host.exercise(name)?["state"] == "started");
    let again = host.say_lab(&format!("start {name}"))?;
    ensure!(again.code == 0 && again.out == said.out, "{again:#?}");
    ensure!(again.err.contains("started already"), "{again:#?}");

    let unsolved = host.say_lab(&format!("check {name}"))?;
    ensure!(unsolved.code == 1 && unsolved.out.contains("not yet"), "{unsolved:#?}");

    host.solve(name)?;
    let solved = host.say_lab(&format!("check {name}"))?;
    println!("{}{}", solved.out, solved.err);
    ensure!(solved.code == 0, "{solved:#?}");
    ensure!(solved.out.ends_with(&format!("\n{steps} of {steps} done\n")), "{solved:#?}");
    ensure!(host.exercise(name)?["state"] == "done");

    for _ in 0..2 {
        let reset = host.say_lab(&format!("reset {name}"))?;
        ensure!(reset.code == 0, "{reset:#?}");
    }
    let after = host.everything()?;
    ensure!(after == before, "before:\n{before}\nafter:\n{after}");
    ensure!(host.exercise(name)?["state"] == "not started");
    Ok(())
}

#[test]
fn kernel_of_ones_own() -> Result<()> {
    can_be_solved("01-kernel", 5)
}

#[test]
fn limits_and_cgroups() -> Result<()> {
    can_be_solved("02-limits", 5)
}

#[test]
fn layers_and_images() -> Result<()> {
    can_be_solved("03-layers", 4)
}

#[test]
fn fork_bomb_in_each() -> Result<()> {
    can_be_solved("04-fork-bomb", 4)
}

#[test]
fn networks_and_published_ports() -> Result<()> {
    can_be_solved("05-networks", 5)
}

#[test]
fn density() -> Result<()> {
    can_be_solved("06-density", 5)
}

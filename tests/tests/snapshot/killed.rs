//! A `vmm` that is killed while it saves.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use api::http::ClientError;
use api::v1::SnapshotType;
use integration_tests::api_vm::lean;
use integration_tests::transfer::random_bytes;
use integration_tests::vm::signal_process;
use rustix::process::Signal;

use crate::support::{Pair, Place};

/// How often the `vmm` is killed.
const KILLS: u32 = 20;

/// Returns a random part of `most`.
fn part_of(most: Duration) -> Result<Duration> {
    let bytes = random_bytes(4)?;
    let number = u32::from_le_bytes(bytes.try_into().ok().context("four bytes")?);
    Ok(most.mul_f64(f64::from(number) / f64::from(u32::MAX)))
}

/// Asks for a snapshot over that in `pair` and kills the `vmm` after `delay`. Tells whether it had
/// answered by then.
fn save_and_kill(guest: crate::support::ApiGuest, pair: &Pair, delay: Duration) -> Result<bool> {
    let pid = guest.vm.pid();
    let mut api = guest.vm.connect()?;
    api.pause()?;
    let killer = thread::spawn(move || {
        // The random instant is what is tested.
        thread::sleep(delay);
        signal_process(pid, Signal::KILL)
    });
    let answer = api.create_snapshot(pair.create_params(SnapshotType::Full));
    killer.join().ok().context("the killer panicked")??;
    guest.vm.kill()?;
    match answer {
        Ok(()) => Ok(true),
        Err(ClientError::HungUp { .. } | ClientError::Protocol(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whatever the moment, there is a snapshot of that name that is whole and runs.
#[test]
fn vmm_killed_while_it_saves_leaves_a_whole_snapshot() -> Result<()> {
    let place = Place::new("killed")?;
    let mut guest = place.boot("origin", lean(1, 128))?;
    let pair = place.pair("full");
    guest.vm.api.pause()?;
    let since = Instant::now();
    pair.create(&mut guest, SnapshotType::Full)?;
    let usual = since.elapsed();
    guest.vm.kill()?;
    let mut answered = 0;
    for kill in 0..KILLS {
        let guest = place.restore("restored", &pair).with_context(|| format!("kill {kill}"))?;
        answered += u32::from(save_and_kill(guest, &pair, part_of(usual.mul_f64(1.2))?)?);
        pair.verify().with_context(|| format!("after kill {kill}"))?;
    }
    ensure!(answered < KILLS, "every snapshot was complete before the kill");
    // The next one that is completed takes away what the killed ones left.
    let mut guest = place.restore("restored", &pair)?;
    pair.take(&mut guest, SnapshotType::Full)?;
    guest.power_off()?;
    pair.verify()?;
    let left = place.listing()?;
    let left: Vec<_> = left.iter().filter(|name| !name.ends_with(".sock")).collect();
    ensure!(left == ["full.memory", "full.state"], "{left:?}");
    Ok(())
}

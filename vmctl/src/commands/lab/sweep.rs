//! What's left of an exercise when its `reset` is over: everything whose name begins with the
//! exercise's prefix.

use runtime::Engine;

use crate::commands::stores;
use crate::errors::containers::ContainerError;

/// Removes all containers, networks, volumes and images of a prefix; returns what can't be removed.
pub(super) fn sweep(engine: &Engine, prefix: &str) -> Vec<String> {
    type Sweep = fn(&Engine, &str) -> Result<(), ContainerError>;
    let sweeps: [(&str, Sweep); 4] = [
        ("containers", containers),
        ("networks", networks),
        ("volumes", volumes),
        ("images", images),
    ];
    let failed = |(what, sweep): &(&str, Sweep)| {
        sweep(engine, prefix).err().map(|error| format!("{what}: {error}"))
    };
    sweeps.iter().filter_map(failed).collect()
}

/// Whether a name is an exercise's: its prefix alone, or with something behind a hyphen.
fn is_of(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

fn containers(engine: &Engine, prefix: &str) -> Result<(), ContainerError> {
    for state in stores::containers(engine)? {
        if is_of(&state.summary.name, prefix) {
            engine.remove(&state.summary.id, true, true)?;
        }
    }
    Ok(())
}

fn networks(engine: &Engine, prefix: &str) -> Result<(), ContainerError> {
    let networks = stores::networks(engine)?;
    for network in networks.list()? {
        if is_of(&network.name, prefix) {
            networks.remove(&network.id)?;
        }
    }
    Ok(())
}

fn volumes(engine: &Engine, prefix: &str) -> Result<(), ContainerError> {
    for volume in engine.volumes()? {
        if is_of(&volume.name, prefix) {
            engine.remove_volume(&volume.name, true)?;
        }
    }
    Ok(())
}

fn images(engine: &Engine, prefix: &str) -> Result<(), ContainerError> {
    let images = stores::images(engine)?;
    let users = stores::users(engine)?;
    for image in images.list()? {
        for tag in &image.tags {
            let tag = tag.familiar();
            // The part before the tag, or before a path below it.
            let name = tag.split([':', '/']).next().unwrap_or_default();
            if is_of(name, prefix) {
                images.remove(&tag, true, &|id: &str| users.get(id).cloned())?;
            }
        }
    }
    Ok(())
}

/// Removes images that an exercise had pulled. One that something else uses stays, and isn't the
/// exercise's any more.
pub(super) fn remove_pulled(engine: &Engine, pulled: &[String]) {
    let removed = stores::images(engine).and_then(|images| Ok((images, stores::users(engine)?)));
    let Ok((images, users)) = removed else { return };
    for name in pulled {
        if let Err(error) = images.remove(name, false, &|id: &str| users.get(id).cloned()) {
            log::info!("{name} stays: {error}");
        }
    }
}

/// Those of some images that aren't there.
pub(super) fn absent(engine: &Engine, wanted: &[String]) -> Result<Vec<String>, ContainerError> {
    let images = stores::images(engine)?;
    Ok(wanted.iter().filter(|name| images.find(name).is_err()).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::is_of;

    #[test]
    fn only_names_of_the_exercise_are_its_own() {
        for (name, expected) in [
            ("lab-net", true),
            ("lab-net-web", true),
            ("lab-network", false),
            ("my-lab-net", false),
            ("lab", false),
            ("", false),
        ] {
            assert_eq!(is_of(name, "lab-net"), expected, "{name}");
        }
    }
}

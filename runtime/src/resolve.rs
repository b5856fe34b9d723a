//! What becomes of a container's configuration with its image's: Docker's rules.

use std::collections::BTreeSet;

use crate::config::{ContainerConfig, HealthConfig, NetworkAttachment};
use crate::record::Resolved;
use crate::signals::{SIGTERM, parse_signal};
use crate::{RuntimeError, check};

/// What an image says of containers that are made of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImageDefaults {
    /// The identifier: the digest of the configuration.
    pub(crate) id: String,
    /// The digest that the store has it by.
    pub(crate) manifest_digest: String,
    pub(crate) platform: String,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) command: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) user: String,
    pub(crate) working_dir: String,
    pub(crate) labels: Vec<(String, String)>,
    /// `PORT/PROTOCOL`.
    pub(crate) exposed: Vec<String>,
    pub(crate) volumes: Vec<String>,
    pub(crate) stop_signal: Option<String>,
    pub(crate) health: Option<HealthConfig>,
}

/// Merges a configuration with its image's, and checks what can be without the host.
///
/// # Errors
/// [`RuntimeError::NoCommand`], or [`RuntimeError::Invalid`] with what's wrong.
pub(crate) fn resolve(
    config: &ContainerConfig,
    image: &ImageDefaults,
) -> Result<Resolved, RuntimeError> {
    check::config(config)?;
    let (entrypoint, command) = entry(config, image)?;
    let stop_signal = config.stop_signal.as_deref().or(image.stop_signal.as_deref());
    let mut labels: std::collections::BTreeMap<_, _> = image.labels.iter().cloned().collect();
    labels.extend(config.labels.clone());
    let working_dir = config.working_dir.clone().unwrap_or_else(|| image.working_dir.clone());
    Ok(Resolved {
        image_id: image.id.clone(),
        manifest_digest: image.manifest_digest.clone(),
        entrypoint,
        command,
        env: environment(&config.env, &image.env),
        user: config.user.clone().unwrap_or_else(|| image.user.clone()),
        working_dir: absolute(working_dir)?,
        hostname: config.hostname.clone().unwrap_or_default(),
        labels,
        exposed: exposed(config, image)?,
        volumes: image.volumes.clone(),
        stop_signal: stop_signal.map_or(Ok(SIGTERM), parse_signal)?,
        health: health(config.health.as_ref(), image.health.as_ref())?,
        platform: image.platform.clone(),
    })
}

/// The entry point and what follows it. One that's given takes the image's command away.
fn entry(
    config: &ContainerConfig,
    image: &ImageDefaults,
) -> Result<(Vec<String>, Vec<String>), RuntimeError> {
    let (entrypoint, command) = match &config.entrypoint {
        Some(entrypoint) => {
            // `--entrypoint ""` is one empty word.
            let entrypoint =
                entrypoint.iter().filter(|word| !word.is_empty()).cloned().collect::<Vec<_>>();
            (entrypoint, config.command.clone())
        }
        None if config.command.is_empty() => (image.entrypoint.clone(), image.command.clone()),
        None => (image.entrypoint.clone(), config.command.clone()),
    };
    if entrypoint.is_empty() && command.is_empty() {
        return Err(RuntimeError::NoCommand);
    }
    Ok((entrypoint, command))
}

/// The image's variables, those that are given over them.
fn environment(given: &[String], image: &[String]) -> Vec<String> {
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let mut merged = image.to_vec();
    for variable in given {
        let found = merged.iter().position(|other| name(other) == name(variable));
        match (found, variable.contains('=')) {
            (Some(index), true) => {
                if let Some(place) = merged.get_mut(index) {
                    place.clone_from(variable);
                }
            }
            (None, true) => merged.push(variable.clone()),
            (Some(index), false) => {
                merged.remove(index);
            }
            (None, false) => {}
        }
    }
    merged
}

fn absolute(dir: String) -> Result<String, RuntimeError> {
    match dir.as_str() {
        "" => Ok("/".to_owned()),
        path if path.starts_with('/') && !path.contains('\0') => Ok(dir),
        _ => Err(RuntimeError::invalid(format!(
            "the working directory {dir:?} is invalid, it needs to be an absolute path"
        ))),
    }
}

/// The exposed ports: the image's, those asked for, and the published ones.
fn exposed(config: &ContainerConfig, image: &ImageDefaults) -> Result<Vec<String>, RuntimeError> {
    let mut ports = BTreeSet::new();
    for text in image.exposed.iter().chain(&config.expose) {
        ports.insert(check::exposed_port(text)?);
    }
    ports.extend(config.ports.iter().map(|port| (port.container_port, port.protocol)));
    Ok(ports.into_iter().map(|(port, protocol)| format!("{port}/{protocol}")).collect())
}

/// How health is checked: what's given over what the image says; none when there's no test, or
/// it's `NONE`.
fn health(
    given: Option<&HealthConfig>,
    image: Option<&HealthConfig>,
) -> Result<Option<HealthConfig>, RuntimeError> {
    let empty = HealthConfig::default();
    let (given, image) = (given.unwrap_or(&empty), image.unwrap_or(&empty));
    let said = |test: &Option<Vec<String>>| test.clone().filter(|test| !test.is_empty());
    let Some(test) = said(&given.test).or_else(|| said(&image.test)) else { return Ok(None) };
    match test.first().map(String::as_str) {
        Some("NONE") => return Ok(None),
        Some("CMD" | "CMD-SHELL") if test.len() > 1 => {}
        _ => {
            return Err(RuntimeError::invalid(format!(
                "the health check {test:?} is none: NONE, CMD with a command, or CMD-SHELL"
            )));
        }
    }
    // 0 stands for what isn't said, as in images' configurations.
    let over = |given: Option<u64>, image: Option<u64>| {
        given.filter(|it| *it != 0).or_else(|| image.filter(|it| *it != 0))
    };
    Ok(Some(HealthConfig {
        test: Some(test),
        interval_ns: over(given.interval_ns, image.interval_ns),
        timeout_ns: over(given.timeout_ns, image.timeout_ns),
        start_period_ns: over(given.start_period_ns, image.start_period_ns),
        start_interval_ns: over(given.start_interval_ns, image.start_interval_ns),
        retries: given.retries.filter(|it| *it != 0).or(image.retries.filter(|it| *it != 0)),
    }))
}

/// The networks of a container: the default one unless said.
pub(crate) fn networks(config: &ContainerConfig) -> Vec<NetworkAttachment> {
    if config.networks.is_empty() {
        let network = crate::DEFAULT_NETWORK.to_owned();
        return vec![NetworkAttachment { network, ..NetworkAttachment::default() }];
    }
    let is_some = |network: &&NetworkAttachment| network.network != "none";
    let named = config.networks.iter().filter(is_some).cloned();
    named
        .map(|mut network| {
            // Docker's other name of its default network.
            if network.network == "default" {
                crate::DEFAULT_NETWORK.clone_into(&mut network.network);
            }
            network
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(ToString::to_string).collect()
    }

    fn image() -> ImageDefaults {
        ImageDefaults {
            entrypoint: strings(&["/entry"]),
            command: strings(&["serve", "-x"]),
            env: strings(&["PATH=/bin", "MODE=prod", "EMPTY="]),
            user: "www".to_owned(),
            exposed: strings(&["80/tcp", "53/udp"]),
            stop_signal: Some("SIGQUIT".to_owned()),
            labels: vec![("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())],
            health: Some(HealthConfig {
                test: Some(strings(&["CMD", "check"])),
                interval_ns: Some(5),
                retries: Some(7),
                ..HealthConfig::default()
            }),
            ..ImageDefaults::default()
        }
    }

    fn words(config: &ContainerConfig) -> (Vec<String>, Vec<String>) {
        let resolved = resolve(config, &image()).unwrap();
        (resolved.entrypoint, resolved.command)
    }

    #[test]
    fn entry_point_and_command_merge_as_docker_does_it() {
        let mut config = ContainerConfig::default();
        assert_eq!(words(&config), (strings(&["/entry"]), strings(&["serve", "-x"])));
        config.command = strings(&["sh"]);
        assert_eq!(words(&config), (strings(&["/entry"]), strings(&["sh"])));
        config.entrypoint = Some(strings(&["/other"]));
        assert_eq!(words(&config), (strings(&["/other"]), strings(&["sh"])));
        config.command.clear();
        assert_eq!(words(&config), (strings(&["/other"]), vec![]), "the image's command goes");
        config.entrypoint = Some(strings(&[""]));
        let error = resolve(&config, &image()).unwrap_err();
        assert!(matches!(error, RuntimeError::NoCommand));
        assert_eq!(error.to_string(), "no command specified");
    }

    #[test]
    fn environment_is_overridden_by_name_and_can_be_unset() {
        let given = strings(&["MODE=dev", "NEW=a=b", "EMPTY", "NOTHING"]);
        assert_eq!(
            environment(&given, &image().env),
            strings(&["PATH=/bin", "MODE=dev", "NEW=a=b"])
        );
    }

    #[test]
    fn rest_comes_from_the_image_unless_said() {
        let mut config = ContainerConfig::default();
        let resolved = resolve(&config, &image()).unwrap();
        assert_eq!((resolved.user.as_str(), resolved.working_dir.as_str()), ("www", "/"));
        assert_eq!(resolved.stop_signal, 3);
        assert_eq!(resolved.exposed, ["53/udp", "80/tcp"]);
        config.user = Some("0:0".to_owned());
        config.working_dir = Some("relative".to_owned());
        resolve(&config, &image()).unwrap_err();
        config.working_dir = Some("/srv".to_owned());
        config.stop_signal = Some("9".to_owned());
        config.labels.insert("b".to_owned(), "3".to_owned());
        config.expose.push("8000-8001".to_owned());
        resolve(&config, &image()).unwrap_err();
        config.expose = strings(&["8000"]);
        let resolved = resolve(&config, &image()).unwrap();
        assert_eq!((resolved.user.as_str(), resolved.working_dir.as_str()), ("0:0", "/srv"));
        assert_eq!(resolved.stop_signal, 9);
        assert_eq!(resolved.labels.into_values().collect::<Vec<_>>(), ["1", "3"]);
        assert_eq!(resolved.exposed, ["53/udp", "80/tcp", "8000/tcp"]);
    }

    #[test]
    fn health_is_merged_field_by_field_and_can_be_switched_off() {
        let mut config = ContainerConfig::default();
        let of = |config: &ContainerConfig| resolve(config, &image()).unwrap().health;
        assert_eq!(of(&config), image().health);
        config.health = Some(HealthConfig { retries: Some(1), ..HealthConfig::default() });
        let health = of(&config).unwrap();
        assert_eq!((health.retries, health.interval_ns), (Some(1), Some(5)));
        let test = Some(strings(&["NONE"]));
        config.health = Some(HealthConfig { test, ..HealthConfig::default() });
        assert_eq!(of(&config), None);
        let test = Some(strings(&["CMD"]));
        config.health = Some(HealthConfig { test, ..HealthConfig::default() });
        resolve(&config, &image()).unwrap_err();
    }
}

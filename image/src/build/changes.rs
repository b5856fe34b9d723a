//! Single instructions that change a configuration: `commit --change` and `import --change`.

use std::collections::BTreeMap;

use super::error::BuildError;
use super::parse::{self, Instruction, Step};
use super::stage::Stage;
use super::variables::Globals;
use crate::{Image, ImageConfig, Platform};

/// Changes a configuration as Dockerfile instructions say: CMD, ENTRYPOINT, ENV, EXPOSE,
/// HEALTHCHECK, LABEL, USER, VOLUME, WORKDIR, STOPSIGNAL.
///
/// # Errors
/// One is malformed, or does something else than change the configuration.
pub fn change_config(
    mut config: ImageConfig,
    changes: &[String],
) -> Result<ImageConfig, BuildError> {
    let mut globals = Globals::new(&[], '\\', &BTreeMap::new(), &Platform::host())?;
    // Only `config` is taken from it.
    let mut stage = Stage::of_image(bare(config.clone()), '\\');
    for change in changes {
        let file = parse::parse("--change", &format!("FROM scratch\n{change}\n"))?;
        for step in file.stages.iter().flat_map(|stage| &stage.steps) {
            apply(&mut stage, step, &mut globals)?;
        }
        if let Some(extra) = file.stages.get(1) {
            return Err(extra.place.wrong("FROM isn't a change of the configuration"));
        }
    }
    config.config = stage.config.value();
    Ok(config)
}

fn apply(stage: &mut Stage, step: &Step, globals: &mut Globals) -> Result<(), BuildError> {
    match &step.instruction {
        Instruction::Run { .. }
        | Instruction::Copy(_)
        | Instruction::Add(_)
        | Instruction::Arg(_)
        | Instruction::Maintainer(_)
        | Instruction::Shell(_) => {
            let word = step.display.split_whitespace().next().unwrap_or_default();
            Err(step.place.wrong(format!("{word} isn't a change of the configuration")))
        }
        Instruction::Workdir(path) => {
            let path = stage.named(path, "WORKDIR", &step.place)?;
            stage.config.set_directory(&path);
            Ok(())
        }
        _ => stage.configure(step, globals),
    }
}

/// A configuration as an image that's nowhere.
fn bare(config: ImageConfig) -> Image {
    Image {
        id: String::new(),
        manifest_digest: String::new(),
        config,
        raw_config: Vec::new(),
        tags: Vec::new(),
        digests: Vec::new(),
        size_bytes: 0,
        compressed_bytes: 0,
        layer_bytes: Vec::new(),
        created: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn change(changes: &[&str]) -> Result<serde_json::Value, BuildError> {
        let config = ImageConfig {
            config: json!({ "Cmd": ["old"], "Env": ["A=1"], "WorkingDir": "/srv", "Other": 7 }),
            ..ImageConfig::default()
        };
        let changes: Vec<_> = changes.iter().map(|text| (*text).to_owned()).collect();
        change_config(config, &changes).map(|config| config.config)
    }

    #[test]
    fn instructions_change_what_they_name_and_nothing_else() {
        let changed = change(&[
            "CMD [\"new\", \"-x\"]",
            "ENV B=$A C=\"two words\"",
            "EXPOSE 80 53/udp",
            "label a=1",
            "USER www",
            "VOLUME /data",
            "WORKDIR sub",
            "STOPSIGNAL SIGQUIT",
        ])
        .unwrap();
        assert_eq!(changed["Cmd"], json!(["new", "-x"]));
        assert_eq!(changed["Env"], json!(["A=1", "B=1", "C=two words"]));
        assert_eq!(changed["ExposedPorts"], json!({ "80/tcp": {}, "53/udp": {} }));
        assert_eq!((&changed["Labels"]["a"], &changed["User"]), (&json!("1"), &json!("www")));
        assert_eq!(changed["WorkingDir"], "/srv/sub");
        assert_eq!((&changed["StopSignal"], &changed["Other"]), (&json!("SIGQUIT"), &json!(7)));
        assert_eq!(change(&[]).unwrap()["Cmd"], json!(["old"]));
    }

    #[test]
    fn what_is_no_change_of_the_configuration_is_refused() {
        for text in [
            "RUN true",
            "COPY a b",
            "FROM busybox",
            "ARG A",
            "NONSENSE",
            "EXPOSE x",
            "ENV",
            "WORKDIR \"\"",
            "CMD a\nRUN b",
        ] {
            change(&[text]).unwrap_err();
        }
    }
}

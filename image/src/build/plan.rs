//! Which stages a target needs, and what each begins with.

use std::collections::BTreeSet;

use super::error::{BuildError, Place};
use super::parse::{Dockerfile, Instruction, Stage};
use super::variables::Globals;

/// What a stage begins with, or takes files from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// An image.
    Image(String),
}

/// The order of a build.
#[derive(Debug)]
pub(super) struct Plan {
    /// Each stage's base, whether it's needed or not.
    pub(super) bases: Vec<Base>,
    /// The stages to build: each one after those that it needs, the target last.
    pub(super) stages: Vec<usize>,
}

impl Plan {
    /// Finds out what a target needs.
    ///
    /// # Errors
    /// There's no such stage, or a stage takes from itself or a later one.
    pub(super) fn new(
        file: &Dockerfile,
        target: Option<&str>,
        globals: &Globals,
    ) -> Result<Self, BuildError> {
        let bases = file.stages.iter().enumerate().map(|(index, stage)| {
            let name = globals.expand(&stage.base, &stage.place)?;
            if name.is_empty() {
                return Err(stage.place.wrong(format!("`{}` is empty", stage.base)));
            }
            match name.as_str() {
                "scratch" => Ok(Base::Scratch),
                // A number is no name of a base, but may be one of an image.
                _ if name.parse::<usize>().is_ok() => Ok(Base::Image(name)),
                _ => source(file, index, &name, &stage.place),
            }
        });
        let bases: Vec<Base> = bases.collect::<Result<_, _>>()?;
        let target = find_target(file, target)?;
        let mut needed = BTreeSet::from([target]);
        // Stages need earlier ones only: going backwards sees each after all that need it.
        for index in (0..=target).rev() {
            if !needed.contains(&index) {
                continue;
            }
            needed.extend(stage_of(&bases[index]));
            for (from, place) in sources(&file.stages[index]) {
                needed.extend(stage_of(&source(file, index, from, place)?));
            }
        }
        Ok(Self { bases, stages: needed.into_iter().collect() })
    }
}

fn stage_of(base: &Base) -> Option<usize> {
    match base {
        Base::Stage(index) => Some(*index),
        _ => None,
    }
}

fn sources(stage: &Stage) -> impl Iterator<Item = (&str, &Place)> {
    stage.steps.iter().filter_map(|step| match &step.instruction {
        Instruction::Copy(copy) => Some((copy.from.as_deref()?, &step.place)),
        _ => None,
    })
}

fn find_target(file: &Dockerfile, target: Option<&str>) -> Result<usize, BuildError> {
    let Some(target) = target else { return Ok(file.stages.len() - 1) };
    let name = target.to_lowercase();
    let named = file.stages.iter().position(|stage| stage.name.as_ref() == Some(&name));
    let numbered = target.parse().ok().filter(|index| *index < file.stages.len());
    named.or(numbered).ok_or_else(|| BuildError::NoSuchStage { name: target.to_owned() })
}

/// Finds what the stage `index` means by a name: an earlier stage, or an image.
///
/// # Errors
/// It's that stage itself, or a later one.
pub(super) fn source(
    file: &Dockerfile,
    index: usize,
    name: &str,
    place: &Place,
) -> Result<Base, BuildError> {
    let lower = name.to_lowercase();
    let is_it = |stage: &Stage| stage.name.as_ref() == Some(&lower);
    let earlier = file.stages[..index].iter().rposition(is_it);
    if let Some(earlier) = earlier {
        return Ok(Base::Stage(earlier));
    }
    let wrong = |what: &str| {
        place.wrong(format!("{name} is {what}: a stage can take from earlier stages only"))
    };
    match name.parse::<usize>() {
        Ok(number) if number < index => return Ok(Base::Stage(number)),
        Ok(number) if number == index => return Err(wrong("this stage itself")),
        Ok(number) if number < file.stages.len() => return Err(wrong("a later stage")),
        Ok(_) => return Err(place.wrong(format!("there's no stage {name}"))),
        Err(_) => {}
    }
    // `FROM nginx AS nginx` means the image, as in Docker; anything else would be a cycle.
    let is_own_base = file.stages[index].place == *place;
    match file.stages[index..].iter().position(is_it) {
        Some(_) if is_own_base => Ok(Base::Image(name.to_owned())),
        Some(0) => Err(wrong("this stage itself")),
        Some(_) => Err(wrong("a later stage")),
        None => Ok(Base::Image(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Platform;
    use crate::build::parse;

    fn plan(text: &str, target: Option<&str>) -> Result<Plan, BuildError> {
        let file = parse::parse("Dockerfile", text)?;
        let args = std::collections::BTreeMap::new();
        let globals = Globals::new(&file.global_args, file.escape, &args, &Platform::host())?;
        Plan::new(&file, target, &globals)
    }

    const STAGES: &str = "ARG V=1\nFROM a:$V AS one\nFROM b AS Unused\nFROM scratch AS two\n\
                          COPY --from=ONE /x /\nFROM two\nCOPY --from=img:2 /y /\nCOPY --from=0 / /\n";

    #[test]
    fn target_needs_its_base_and_what_it_copies_from() {
        let whole = plan(STAGES, None).unwrap();
        assert_eq!(whole.stages, [0, 2, 3]);
        let image = |name: &str| Base::Image(name.to_owned());
        assert_eq!(whole.bases, [image("a:1"), image("b"), Base::Scratch, Base::Stage(2)]);
        assert_eq!(plan(STAGES, Some("ONE")).unwrap().stages, [0]);
        assert_eq!(plan(STAGES, Some("1")).unwrap().stages, [1]);
        assert_eq!(plan("FROM nginx AS nginx\n", None).unwrap().bases, [image("nginx")]);
    }

    #[test]
    fn unknown_stages_and_cycles_are_refused() {
        for (text, target, expected) in [
            (STAGES, Some("three"), "the Dockerfile has no stage named three"),
            (STAGES, Some("4"), "the Dockerfile has no stage named 4"),
            ("FROM a AS x\nCOPY --from=x / /\n", None, "x is this stage itself"),
            ("FROM a\nCOPY --from=0 / /\n", None, "0 is this stage itself"),
            ("FROM a AS x\nCOPY --from=y / /\nFROM x AS y\n", Some("y"), "y is a later stage"),
            ("FROM a\nCOPY --from=1 / /\nFROM 0\nCOPY --from=0 / /", None, "1 is a later stage"),
            ("FROM a\nCOPY --from=7 / /\n", None, "there's no stage 7"),
            ("FROM $NONE\n", None, "`$NONE` is empty"),
        ] {
            let error = match plan(text, target) {
                Err(error) => error.to_string(),
                // The first stage isn't needed there, so nobody looks at what it copies.
                Ok(plan) => {
                    assert_eq!(plan.stages, [1], "{text}");
                    continue;
                }
            };
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}

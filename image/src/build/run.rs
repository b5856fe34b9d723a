//! A build carried out: stages in order, step by step.

use std::collections::BTreeMap;
use std::fs::File;

use super::cache::{Cache, Key};
use super::context::Context;
use super::disk::Disk;
use super::error::{BuildError, Place};
use super::layer::Finished;
use super::options::{BuildHost, BuildOptions, RunRequest, Script};
use super::parse::{self, Command, Dockerfile, Document, Instruction, Step, Transfer};
use super::plan::{self, Base, Plan};
use super::stage::Stage;
use super::transfer::{Job, Origin};
use super::variables::Globals;
use crate::{Image, ImageError, Images, NewImage, Platform};

/// Where a script must be while it runs: nothing in `/dev` becomes part of a layer.
const SCRIPTS: &str = "/dev/pipes";

struct Build<'a> {
    images: &'a Images,
    options: &'a BuildOptions,
    host: &'a mut dyn BuildHost,
    cache: Cache<'a>,
    context: Context,
    file: Dockerfile,
    globals: Globals,
    platform: Platform,
    /// Stages that are built, by their numbers.
    done: BTreeMap<usize, Stage>,
    step: usize,
    steps: usize,
}

/// Builds an image.
///
/// # Errors
/// See [`Images::build`].
pub(super) fn build(
    images: &Images,
    options: &BuildOptions,
    host: &mut dyn BuildHost,
) -> Result<Image, BuildError> {
    let name = options.name.clone();
    if options.text.len() as u64 > parse::MAX_BYTES {
        let place = Place { file: name, line: 1, text: String::new() };
        return Err(place.wrong(format!("it's larger than {} bytes", parse::MAX_BYTES)));
    }
    let file = parse::parse(&name, &options.text)?;
    let platform = match &options.platform {
        Some(platform) => platform.parse().map_err(|problem| BuildError::Platform { problem })?,
        None => Platform::host(),
    };
    let globals = Globals::new(&file.global_args, file.escape, &options.build_args, &platform)?;
    let plan = Plan::new(&file, options.target.as_deref(), &globals)?;
    let context = Context::open(&options.context, options.ignore_file.as_deref())?;
    let steps = plan.stages.iter().map(|&index| 1 + file.stages[index].steps.len()).sum::<usize>();
    let mut build = Build {
        images,
        options,
        host,
        cache: Cache::open(images),
        context,
        globals,
        platform,
        done: BTreeMap::new(),
        step: 0,
        steps: steps + file.global_args.len(),
        file,
    };
    build.run(&plan)
}

impl Build<'_> {
    fn run(&mut self, plan: &Plan) -> Result<Image, BuildError> {
        for index in 0..self.file.global_args.len() {
            self.announce(&self.file.global_args[index].display.clone());
        }
        let mut last = None;
        for &index in &plan.stages {
            let stage = self.stage(index, &plan.bases[index])?;
            self.done.insert(index, stage);
            last = Some(index);
        }
        let unused = self.globals.unused();
        if !unused.is_empty() {
            let line = format!("One or more build-args [{}] were not consumed", unused.join(" "));
            self.host.warn(&line);
        }
        // A plan has its target at least.
        let index = last.unwrap_or_default();
        let place = self.file.stages[index].place.clone();
        match self.done.remove(&index) {
            Some(stage) => self.finish(stage, &place),
            None => Err(BuildError::NoSuchStage { name: index.to_string() }),
        }
    }

    fn announce(&mut self, text: &str) {
        self.step += 1;
        let line = format!("Step {}/{} : {text}", self.step, self.steps);
        self.host.say(&line);
    }

    fn stage(&mut self, index: usize, base: &Base) -> Result<Stage, BuildError> {
        let source = &self.file.stages[index];
        let place = source.place.clone();
        let platform = source.platform.clone();
        let name = source.name.as_ref().map(|name| format!(" AS {name}")).unwrap_or_default();
        let text = format!("FROM {}{name}", source.base);
        self.announce(&text);
        let mut stage = match base {
            Base::Scratch => Stage::scratch(&self.platform, self.file.escape),
            Base::Stage(earlier) => self.done[earlier].derived(),
            Base::Image(reference) => {
                let platform = match platform {
                    Some(word) => Some(self.globals.expand(&word, &place)?),
                    None => self.options.platform.clone(),
                };
                let image = self.image(reference, platform.as_deref(), &place)?;
                self.warn_of_triggers(reference, &image);
                Stage::of_image(image, self.file.escape)
            }
        };
        self.say_image(stage.image_id.clone().as_deref());
        let steps = std::mem::take(&mut self.file.stages[index].steps);
        for step in &steps {
            self.announce(&step.display);
            self.step(index, &mut stage, step)?;
        }
        Ok(stage)
    }

    fn image(
        &mut self,
        reference: &str,
        platform: Option<&str>,
        place: &Place,
    ) -> Result<Image, BuildError> {
        let provided = self.host.provide(reference, platform);
        provided.map_err(|source| BuildError::Base { place: place.clone(), source })?;
        let found = self.images.find(reference).map_err(failed(place))?;
        Ok(found.image)
    }

    fn warn_of_triggers(&mut self, reference: &str, image: &Image) {
        let triggers = image.config.config.get("OnBuild").and_then(serde_json::Value::as_array);
        if triggers.is_some_and(|triggers| !triggers.is_empty()) {
            let line = format!("{reference} has ONBUILD instructions, which aren't carried out");
            self.host.warn(&line);
        }
    }

    fn say_image(&mut self, image_id: Option<&str>) {
        let Some(id) = image_id else { return };
        let digits = id.rsplit(':').next().unwrap_or(id);
        let line = format!(" ---> {}", digits.get(..12).unwrap_or(digits));
        self.host.say(&line);
    }

    fn step(&mut self, index: usize, stage: &mut Stage, step: &Step) -> Result<(), BuildError> {
        match &step.instruction {
            Instruction::Run { command, documents } => {
                self.run_command(stage, step, command, documents)
            }
            Instruction::Copy(transfer) => self.transfer(index, stage, step, transfer, false),
            Instruction::Add(transfer) => self.transfer(index, stage, step, transfer, true),
            Instruction::Workdir(path) => self.workdir(stage, step, path),
            _ => stage.configure(step, &mut self.globals),
        }
    }

    /// A file for a layer, without a name: nothing is left of it whatever happens.
    fn scratch_file(&self) -> Result<File, BuildError> {
        let directory = self.images.directory();
        tempfile::tempfile_in(directory)
            .map_err(|source| BuildError::Context { path: directory.to_owned(), source })
    }

    fn transfer(
        &mut self,
        index: usize,
        stage: &mut Stage,
        step: &Step,
        transfer: &Transfer,
        unpacks: bool,
    ) -> Result<(), BuildError> {
        let place = &step.place;
        let from = match &transfer.from {
            None => None,
            Some(name) => Some(self.origin(index, name, place)?),
        };
        let image = self.disk(stage.image_id.as_deref(), place)?;
        let origin = match &from {
            None => Origin::Context(&self.context),
            Some(disk) => Origin::Image(disk),
        };
        let job = Job { stage, image: &image, place, unpacks };
        let layer = job.make(transfer, &origin, self.scratch_file()?)?;
        self.add_files(stage, step, &step.display, layer)
    }

    /// What a `COPY --from` copies from.
    fn origin(&mut self, index: usize, name: &str, place: &Place) -> Result<Disk, BuildError> {
        match plan::source(&self.file, index, name, place)? {
            Base::Stage(earlier) => {
                let image_id = self.done[&earlier].image_id.clone();
                self.disk(image_id.as_deref(), place)
            }
            Base::Image(reference) => {
                let platform = self.options.platform.clone();
                let image = self.image(&reference, platform.as_deref(), place)?;
                self.disk(Some(&image.id), place)
            }
            Base::Scratch => self.disk(None, place),
        }
    }

    fn disk(&self, image_id: Option<&str>, place: &Place) -> Result<Disk, BuildError> {
        Disk::open(self.images, image_id).map_err(failed(place))
    }

    fn workdir(&mut self, stage: &mut Stage, step: &Step, path: &str) -> Result<(), BuildError> {
        let path = stage.named(path, "WORKDIR", &step.place)?;
        stage.config.set_directory(&path);
        let text = format!("WORKDIR {}", stage.config.directory());
        let image = self.disk(stage.image_id.as_deref(), &step.place)?;
        let job = Job { stage, image: &image, place: &step.place, unpacks: false };
        match job.make_directory(self.scratch_file()?)? {
            Some(layer) => self.add_files(stage, step, &text, layer),
            None => {
                stage.note(&text);
                Ok(())
            }
        }
    }

    /// Adds a layer whose content is known, unless the cache has the image.
    fn add_files(
        &mut self,
        stage: &mut Stage,
        step: &Step,
        text: &str,
        layer: Finished,
    ) -> Result<(), BuildError> {
        let key = stage.key.with(&[text.as_bytes(), &layer.digest]);
        if self.use_cache(stage, &key) {
            return Ok(());
        }
        self.add_layer(stage, key, text, layer.archive, &step.place)
    }

    /// Goes on from what the cache has, if it has it.
    fn use_cache(&mut self, stage: &mut Stage, key: &Key) -> bool {
        if self.options.no_cache {
            return false;
        }
        let Some(image) = self.cache.find(key) else { return false };
        self.host.say(" ---> Using cache");
        self.say_image(Some(&image.id));
        stage.key = key.clone();
        stage.adopt(image);
        true
    }

    fn add_layer(
        &mut self,
        stage: &mut Stage,
        key: Key,
        text: &str,
        layer: File,
        place: &Place,
    ) -> Result<(), BuildError> {
        stage.note_layer(key.clone(), text);
        let image = self.images.add(NewImage {
            base: stage.image_id.clone(),
            layers: vec![layer],
            config: stage.image_config(),
            tags: Vec::new(),
        });
        let image = image.map_err(failed(place))?;
        self.cache.insert(&key, &image.id);
        self.say_image(Some(&image.id));
        stage.adopt(image);
        Ok(())
    }

    fn run_command(
        &mut self,
        stage: &mut Stage,
        step: &Step,
        command: &Command,
        documents: &[Document],
    ) -> Result<(), BuildError> {
        let place = &step.place;
        let (words, script) = command_words(stage, command, documents);
        let Some(image_id) = stage.image_id.clone() else {
            return Err(place.wrong("the stage has no files yet, so there's nothing to run"));
        };
        if words.first().is_none_or(String::is_empty) {
            return Err(place.wrong("RUN needs a command"));
        }
        let mut request = RunRequest {
            image_id,
            words,
            env: stage.config.environment(),
            user: stage.config.user(),
            cwd: stage.config.directory(),
            script,
        };
        let declared = self.arguments(stage, &mut request.env);
        let text = run_text(&declared, &request.words);
        let key = run_key(stage, &text, &request);
        if self.use_cache(stage, &key) {
            return Ok(());
        }
        let outcome = self.host.run(&request);
        let outcome = outcome.map_err(|source| BuildError::Run { place: place.clone(), source })?;
        match (outcome.code, outcome.layer) {
            (0, Some(layer)) => self.add_layer(stage, key, &text, layer, place),
            (0, None) => {
                stage.note(&text);
                stage.key = key;
                Ok(())
            }
            (code, _) => Err(BuildError::Command { place: place.clone(), code }),
        }
    }

    /// Adds a command's arguments to its environment, which comes first; returns those that are
    /// declared, as `NAME=VALUE`.
    fn arguments(&self, stage: &Stage, env: &mut Vec<String>) -> Vec<String> {
        let is_set = |name: &str| stage.config.variable(name).is_some();
        let declared = stage.args.iter().filter(|(name, _)| !is_set(name));
        let declared: Vec<String> =
            declared.map(|(name, value)| format!("{name}={value}")).collect();
        let predefined = self.globals.predefined();
        let predefined =
            predefined.filter(|(name, _)| !is_set(name) && !stage.args.contains_key(*name));
        env.extend(declared.iter().cloned());
        env.extend(predefined.map(|(name, value)| format!("{name}={value}")));
        declared
    }

    /// Makes the image that the target is, or finds it, and names it.
    fn finish(&mut self, mut stage: Stage, place: &Place) -> Result<Image, BuildError> {
        stage.add_labels(&self.options.labels);
        let key = stage.final_key();
        let known = match &stage.exact {
            Some(id) => Some(id.clone()),
            None if self.options.no_cache => None,
            None => self.cache.find(&key).map(|image| image.id),
        };
        let image = match known {
            Some(id) => {
                for tag in &self.options.tags {
                    self.images.tag(&id, tag).map_err(failed(place))?;
                }
                self.images.find(&id).map_err(failed(place))?.image
            }
            None => {
                let image = self.images.add(NewImage {
                    base: stage.image_id.clone(),
                    layers: Vec::new(),
                    config: stage.image_config(),
                    tags: self.options.tags.clone(),
                });
                let image = image.map_err(failed(place))?;
                self.cache.insert_whole(&key, &image.id);
                image
            }
        };
        Ok(image)
    }
}

fn failed(place: &Place) -> impl Fn(ImageError) -> BuildError {
    let place = place.clone();
    move |source| BuildError::Image { place: place.clone(), source: Box::new(source) }
}

/// The words that a `RUN` is, and the file that it needs.
fn command_words(
    stage: &Stage,
    command: &Command,
    documents: &[Document],
) -> (Vec<String>, Option<Script>) {
    let text = match command {
        Command::Exec(_) => return (stage.config.words(command), None),
        Command::Shell(text) => text,
    };
    let Some(first) = documents.first() else { return (stage.config.words(command), None) };
    let is_all = parse::is_document(text);
    if is_all && first.content.starts_with("#!") {
        let path = format!("{SCRIPTS}/{}", first.name);
        let script = Script { path: path.clone(), content: first.content.clone() };
        return (vec![path], Some(script));
    }
    let text = match is_all {
        true => first.content.clone(),
        // The shell reads them itself.
        false => documents.iter().fold(text.clone(), |text, document| {
            format!("{text}\n{}{}", document.content, document.name)
        }),
    };
    (stage.config.words(&Command::Shell(text)), None)
}

/// A command as the history has it.
fn run_text(declared: &[String], words: &[String]) -> String {
    let arguments = match declared.is_empty() {
        true => String::new(),
        false => format!("|{} {} ", declared.len(), declared.join(" ")),
    };
    format!("RUN {arguments}{}", words.join(" "))
}

/// All that a command's outcome depends on, as far as it's known.
fn run_key(stage: &Stage, text: &str, request: &RunRequest) -> Key {
    let mut parts = vec![text.as_bytes(), request.user.as_bytes(), request.cwd.as_bytes()];
    parts.extend(request.words.iter().map(|word| word.as_bytes()));
    if let Some(script) = &request.script {
        parts.push(script.content.as_bytes());
    }
    stage.key.with(&parts)
}

#[cfg(test)]
#[path = "run/tests.rs"]
mod tests;

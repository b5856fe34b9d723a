//! A container that doesn't run, brought up for its files: its VM and its root, and no process.
//!
//! It's this process that supervises it meanwhile, so nobody can start or remove it.

use std::sync::{Arc, Mutex, PoisonError};

use agent_proto::Client;

use super::life::{self, Vm};
use super::listener::Listener;
use super::place::Place;
use super::shared::{Phase, Shared};
use super::template::Template;
use super::{machine, serve, upper};
use crate::files::LockFile;
use crate::{Engine, RuntimeError};

/// A container that's up for its files, until this is dropped.
pub(crate) struct Visit {
    shared: Arc<Shared>,
    vm: Mutex<Vm>,
    client: Client,
    requests: Option<Listener>,
    life: Option<LockFile>,
}

impl Visit {
    /// Brings a container up.
    ///
    /// # Errors
    /// It's being started or ended, or the VM doesn't come up.
    pub(crate) fn begin(engine: Engine, id: &str) -> Result<Self, RuntimeError> {
        let record = engine.store().record(id)?;
        let paths = engine.store().paths(id);
        let life = engine.store().take_life(id)?.ok_or_else(|| {
            RuntimeError::conflict(format!("container {} is being started or ended", record.name))
        })?;
        let shared = Arc::new(Shared::new(engine, paths, record));
        let requests = serve::serve(&shared)?;
        match bring_up(&shared) {
            Ok((vm, client)) => Ok(Self {
                shared,
                vm: Mutex::new(vm),
                client,
                requests: Some(requests),
                life: Some(life),
            }),
            Err(error) => {
                leave(&shared, || drop((requests, life)));
                Err(error)
            }
        }
    }

    /// The way to the agent.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let vm = self.vm.get_mut().unwrap_or_else(PoisonError::into_inner);
        vm.put_away(&self.client);
        let (requests, life) = (self.requests.take(), self.life.take());
        leave(&self.shared, || drop((requests, life)));
    }
}

fn bring_up(shared: &Shared) -> Result<(Vm, Client), RuntimeError> {
    let own = &shared.paths;
    machine::clean(own)?;
    upper::provide(shared.engine.paths(), &own.upper())?;
    // Nothing runs that could use a network.
    let mut place = Place::None;
    let spec = machine::spec(&shared.engine, own, &shared.record, &place)?;
    let template = Template::of(&shared.engine, &shared.record, &spec)?;
    // One is made for what's run again and again.
    let template = template.filter(Template::exists);
    let (mut vm, _) = Vm::start(shared, &mut place, &spec, template.as_ref())?;
    match life::create(shared, &place, None) {
        Ok(client) => Ok((vm, client)),
        Err(error) => Err(vm.explain(error)),
    }
}

/// Leaves the container as it was; `release` lets others have it.
fn leave(shared: &Shared, release: impl FnOnce()) {
    shared.note(|state| state.vmm = None);
    release();
    let code = shared.engine.store().state(&shared.id).map_or(0, |state| state.exit_code);
    shared.enter(Phase::Over(code));
}

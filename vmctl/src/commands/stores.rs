//! What lies beside the containers in the data root: images and networks.

use std::collections::BTreeMap;

use image::Images;
use network::Networks;
use runtime::{Engine, ListOptions, State};

use crate::errors::containers::ContainerError;
use crate::format::human;

/// The images.
pub(crate) fn images(engine: &Engine) -> Result<Images, ContainerError> {
    Ok(engine.images()?)
}

/// The networks.
pub(crate) fn networks(engine: &Engine) -> Result<Networks, ContainerError> {
    Ok(engine.networks()?)
}

/// All containers, those that don't run included.
pub(crate) fn containers(engine: &Engine) -> Result<Vec<State>, ContainerError> {
    let listed = engine.list(&ListOptions { all: true, ..ListOptions::default() })?;
    Ok(listed.into_iter().map(|listed| listed.state).collect())
}

/// Which container (its short identifier) uses which image.
pub(crate) fn users(engine: &Engine) -> Result<BTreeMap<String, String>, ContainerError> {
    let containers = containers(engine)?.into_iter();
    Ok(containers
        .map(|state| (state.summary.image_id, human::short_id(&state.summary.id).to_owned()))
        .collect())
}

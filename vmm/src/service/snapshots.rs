//! Snapshots.
use api::ApiError;
use api::ext::ForkParams;
use api::http::Reply;
use api::v1::{CreateSnapshotParams, LoadSnapshotParams};

use super::{Outcome, Vmm};

pub(super) struct Capture;

impl Vmm {
    pub(super) fn create_snapshot(
        &mut self,
        _params: &CreateSnapshotParams,
    ) -> Result<(), ApiError> {
        Err(ApiError::internal("later"))
    }
    pub(super) fn load_snapshot(&mut self, _params: LoadSnapshotParams) -> Result<(), ApiError> {
        Err(ApiError::internal("later"))
    }
    pub(super) fn fork(&mut self, _params: &ForkParams, _reply: &mut Option<Reply>) -> Outcome {
        Outcome::Done(Err(ApiError::internal("later")))
    }
    pub(super) fn finish_capture(&mut self) {}
}

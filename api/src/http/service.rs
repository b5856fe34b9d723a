//! What carries requests out: the seam between the API's thread and the VMM.

use tokio::sync::oneshot;

use crate::ApiError;
use crate::action::{VmmAction, VmmData};

/// Carries out what clients ask for.
pub trait VmmService: Send + Sync {
    /// Takes an action over and returns at once: it is called on the API's only thread, where
    /// waiting would hold up every client. `reply` may be sent from any thread, at any later time.
    fn submit(&self, action: VmmAction, reply: Reply);
}

/// Where the outcome of one action goes. Dropping it tells the client that the VMM failed
/// (status 500).
#[derive(Debug)]
pub struct Reply(oneshot::Sender<Result<VmmData, ApiError>>);

impl Reply {
    /// Makes a reply and the receiver of its outcome.
    pub(super) fn new() -> (Self, oneshot::Receiver<Result<VmmData, ApiError>>) {
        let (sender, receiver) = oneshot::channel();
        (Self(sender), receiver)
    }

    /// Answers the client. One that has hung up meanwhile is no error: the action is done anyway.
    pub fn send(self, outcome: Result<VmmData, ApiError>) {
        if self.0.send(outcome).is_err() {
            log::debug!("the client left before its request was answered");
        }
    }
}

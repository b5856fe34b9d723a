//! The live page: instances started side by side from a browser, and watched while they run.
//!
//! ```text
//! browser ── HTTP ──▶ guard ──▶ routes ──▶ floor ── orders ──▶ keeper (a thread per instance)
//!    ▲                                                             │ output, steps, usage
//!    └────────────── events, as long as it reads ◀── board ◀───────┘
//! ```
//!
//! The server's own thread runs an async runtime that does nothing but HTTP; whatever may block is
//! done on threads of its own.
//!
//! # The API
//!
//! Every request needs `Authorization: Bearer TOKEN`; a POST has a JSON body, at least `{}`.
//! Failures are `{"error": "…"}`.
//!
//! | request | does |
//! | --- | --- |
//! | `GET /?token=TOKEN` | the page |
//! | `GET /api/state` | all that there is: ways, instances, rows |
//! | `GET /api/events` | the same as an event `state`, then what changes, as server-sent events; with `Last-Event-ID` only what came after that one, if it's still known |
//! | `POST /api/instances` `{"way": "container"}` | starts an instance |
//! | `POST /api/race` `{"ways": ["container", "microvm-cold"]}` | starts one in each way, at the same moment |
//! | `POST /api/instances/NAME/stop` | stops one |
//! | `POST /api/stop` | stops all |
//! | `POST /api/workloads/NAME` | measures a workload again |

mod board;
mod connection;
mod floor;
mod guard;
mod keeper;
mod page;
mod routes;
mod view;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use tokio::sync::watch;

use crate::model::{Row, Workload};
use crate::ways::{Runner, Spec};
use board::Board;
use floor::Floor;
use guard::Guard;

/// How many instances may be there at once, and be remembered.
pub const MAX_INSTANCES: usize = 16;

/// How many bytes of an instance's output are remembered.
pub const MAX_OUTPUT_BYTES: usize = 256 * 1024;

/// Measures a workload again.
pub trait WorkloadRunner: Send + Sync {
    /// Measures it in all ways and returns its rows; says how far it is by `progress`.
    ///
    /// # Errors
    /// Why there are no rows.
    fn run(&self, workload: Workload, progress: &dyn Fn(String)) -> Result<Vec<Row>, String>;

    /// Has a run that's going on end early: the server ends and waits for it.
    fn cancel(&self);
}

/// What the page shows.
pub struct Show {
    /// The image's name.
    pub image: String,
    /// The ways to run it.
    pub runners: Vec<Arc<dyn Runner>>,
    /// What to start, apart from the name.
    pub spec: Spec,
    /// The table, as far as there is one.
    pub rows: Vec<Row>,
    /// The workloads that can be measured again.
    pub workloads: Vec<Workload>,
    /// What measures them, if anything does.
    pub workload_runner: Option<Arc<dyn WorkloadRunner>>,
}

/// Why there's no live page.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is one that others may reach.
    #[error("{0} can be reached from other machines, and nobody has allowed that")]
    Remote(SocketAddr),
    /// The address can't be had.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The system gives no random numbers, threads or timers.
    #[error("cannot {what}")]
    System {
        /// What couldn't be done.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// Instances couldn't be removed.
    #[error("not everything is removed: {}", .0.join("; "))]
    Left(Vec<String>),
}

/// A live page that has its address, but serves nobody yet.
pub struct Server {
    listener: TcpListener,
    guard: Guard,
    stop: Stop,
}

/// Ends a server, from any thread.
#[derive(Clone)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Stop {
    /// Has the server remove all instances and return.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Server {
    /// Takes an address: the one that's given, or one of this machine's own.
    ///
    /// # Errors
    /// It's taken, or others may reach it and `allow_remote` doesn't say that they may.
    pub fn bind(address: Option<SocketAddr>, allow_remote: bool) -> Result<Self, ServeError> {
        let address = address.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 0).into());
        if !address.ip().is_loopback() && !allow_remote {
            return Err(ServeError::Remote(address));
        }
        let bind_error = |source| ServeError::Bind { address, source };
        let listener = TcpListener::bind(address).map_err(bind_error)?;
        listener.set_nonblocking(true).map_err(bind_error)?;
        let bound = listener.local_addr().map_err(bind_error)?;
        let guard = Guard::new(bound)
            .map_err(|source| ServeError::System { what: "get random numbers", source })?;
        let stop = Stop(Arc::new(watch::Sender::new(false)));
        Ok(Self { listener, guard, stop })
    }

    /// The page's address, with its token: whoever has it may do what the page can.
    pub fn url(&self) -> String {
        format!("http://{}/?token={}", self.guard.authority(), self.guard.token())
    }

    /// What ends it.
    pub fn stop_handle(&self) -> Stop {
        self.stop.clone()
    }

    /// Serves until it's stopped, then removes all instances.
    ///
    /// # Errors
    /// It can't run, or something of an instance is left.
    pub fn run(self, show: Show) -> Result<(), ServeError> {
        let board = Arc::new(Board::new(&show));
        let floor = Arc::new(Floor::new(show, board.clone()));
        let site = Arc::new(routes::Site { guard: self.guard, board, floor: floor.clone() });
        let served = connection::serve(self.listener, routes::router(site), &self.stop.0)
            .map_err(|source| ServeError::System { what: "run the live page's server", source });
        let left = floor.close();
        served?;
        if left.is_empty() { Ok(()) } else { Err(ServeError::Left(left)) }
    }
}

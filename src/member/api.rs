//! What a member answers: `GET /health`, `GET /metrics`, and a short page at `/` that names them.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use warp::http::StatusCode;
use warp::reply::Response;
use warp::{Filter, Reply};

use crate::clock;
use crate::host::vitals::Vitals;
use crate::serve;
use crate::serve::text::Page;
use crate::wire::MemberHealth;

use super::board::Board;
use super::exporter::{self, Extras, ProcessMetrics};
use super::lock;
use super::prober::Prober;

/// The page at `/`.
const INDEX: &str =
    "netring member\n\n/health   is it well, and how many others does it know\n/metrics  what it saw, for Prometheus\n";

/// The routes of a member.
pub(super) fn routes(
    board: Arc<Mutex<Board>>,
    prober: Arc<Prober>,
    vitals: Vitals,
) -> impl Filter<Extract = (impl Reply,), Error = Infallible> + Clone + Send + Sync + 'static {
    let read = serve::get();
    let health = {
        let board = Arc::clone(&board);
        warp::path!("health").and(read).map(move || health(&lock(&board), &vitals))
    };
    let metrics = {
        let process = Arc::new(ProcessMetrics::new());
        warp::path!("metrics").and(read).and(warp::header::optional("accept-encoding")).map(
            move |accept_encoding: Option<String>| {
                let extras = Extras { dropped_reports: prober.dropped_reports() };
                let text = exporter::text(&lock(&board), &process, &extras, clock::monotonic(), clock::wall());
                Page::new(text).reply(accept_encoding.as_deref())
            },
        )
    };
    let index = warp::path::end().and(read).map(|| INDEX.into_response());
    health.or(metrics).unify().or(index).unify().recover(serve::recover)
}

/// 200 while every vital loop moves, 503 with the reason otherwise.
fn health(board: &Board, vitals: &Vitals) -> Response {
    let stalled = vitals.stalled();
    let health = MemberHealth {
        status: if stalled.is_none() { "healthy" } else { "unhealthy" },
        instance_id: board.instance_id.clone(),
        location: board.location.clone(),
        members_count: board.peer_count(),
        timestamp: clock::wall().epoch_seconds_f64(),
        reason: stalled.map(|stalled| stalled.to_string()),
    };
    let status = if health.reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    warp::reply::with_status(warp::reply::json(&health), status).into_response()
}

//! The HTTP routes of a member: `GET /health`, `GET /metrics`, and a page at `/` that lists them.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use warp::http::StatusCode;
use warp::reply::Response;
use warp::{Filter, Reply};

use crate::clock;
use crate::host::vitals::Vitals;
use crate::serve;
use crate::wire::MemberHealth;

use super::TEXT_MAX;
use super::board::Board;
use super::exporter::Exporter;
use super::lock;

/// The page at `/`.
const INDEX: &str = "\
netring member: probes all other members of the ring.

GET  /health   health of this member, and the number of other members
GET  /metrics  results of the probes in Prometheus format
";

/// The routes of a member.
pub(super) fn routes(
    board: &Arc<Mutex<Board>>,
    exporter: Arc<Exporter>,
    vitals: &Vitals,
) -> impl Filter<Extract = (impl Reply,), Error = Infallible> + Clone + Send + Sync + 'static {
    let read = serve::get();
    let health = {
        let board = Arc::clone(board);
        let vitals = vitals.clone();
        warp::path!("health").and(read).map(move || health(&lock(&board), &vitals))
    };
    let pages = vitals.pieces("metrics text", TEXT_MAX);
    let metrics = warp::path!("metrics").and(read).and(warp::header::optional("accept-encoding")).then(
        move |accept_encoding: Option<String>| {
            let exporter = Arc::clone(&exporter);
            // Ends with the work and not with the request: a client that gave up says nothing about the text.
            let piece = pages.begin();
            async move {
                let page = move || {
                    let _ended = piece;
                    exporter.page().reply(accept_encoding.as_deref())
                };
                // On a thread of its own, so that /health is answered and reports are taken in meanwhile.
                tokio::task::spawn_blocking(page).await.unwrap_or_else(|_| {
                    serve::error(StatusCode::INTERNAL_SERVER_ERROR, "cannot generate the metrics; see the log")
                })
            }
        },
    );
    let index = warp::path::end().and(read).map(|| INDEX.into_response());
    health.or(metrics).unify().or(index).unify().recover(serve::recover)
}

/// 503 with the reason if a vital loop is stalled, 200 otherwise. A member that is unwell answers 200 with the status `unwell`,
/// because a restart would not repair its host.
fn health(board: &Board, vitals: &Vitals) -> Response {
    let stalled = vitals.stalled();
    let unwell = board.unwell(clock::monotonic());
    let (status, code) = match (&stalled, unwell) {
        (Some(_), _) => ("unhealthy", StatusCode::SERVICE_UNAVAILABLE),
        (None, Some(_)) => ("unwell", StatusCode::OK),
        (None, None) => ("healthy", StatusCode::OK),
    };
    let health = MemberHealth {
        status,
        instance_id: board.instance_id.clone(),
        location: board.location.clone(),
        members_count: board.peer_count(),
        timestamp: clock::wall().epoch_seconds_f64(),
        reason: stalled.map(|stalled| stalled.to_string()).or(unwell.map(str::to_owned)),
    };
    warp::reply::with_status(warp::reply::json(&health), code).into_response()
}

//! The registry's HTTP routes.
//!
//! All answers are JSON, except the page at `/`, the metrics, and 304 answers, which have no body. Errors are
//! `{"error": "..."}` with a matching status. The content type of a POST is not checked because older programs send different
//! ones. Every route that accepts `GET` also accepts `HEAD`.
//!
//! **Long polls.** `GET /members?wait=SECONDS` is answered as soon as the roster differs from the entity tag in
//! `If-None-Match` (without that header: from the roster at the time of the request), and after `wait` seconds at the latest.
//! The number of requests that may wait is limited. Beyond it the answer is 429 with `Retry-After`, and the client should ask
//! without `wait`. When the registry stops, it answers all waiting requests at once.

use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderValue, StatusCode};
use ipnet::IpNet;
use serde::Serialize;
use serde_json::json;
use tokio::sync::{Semaphore, watch};
use warp::filters::BoxedFilter;
use warp::path::FullPath;
use warp::reply::Response;
use warp::{Filter, Reply};

use super::directory::Directory;
use super::exporter::Exporter;
use super::roster::{Admission, Candidate};
use super::store::StoreError;
use super::view::View;
use crate::wire::{FieldError, Identification, Registered, Registration, STALE_HEADER};
use crate::{clock, serve};

#[cfg(test)]
mod tests;

/// The longest time that a request may ask to wait.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// How many waiting requests may be answered with a new roster at the same time. While an answer is being sent, its connection
/// needs 20 KiB more. A roster of 10,000 members has 1.7 MB, so a change would otherwise make all waiting requests need
/// that at once.
const SENDING: usize = 1024;

/// The `Retry-After` of requests that are rejected for now.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The routes, as values of the label `route`.
const ROUTES: [&str; 8] =
    ["/", "/register", "/heartbeat", "/deregister", "/members", "/health", "/metrics", "/prometheus/targets"];

const PAGE: &str = "\
netring registry: keeps the list of members of the ring.

GET  /members             list the live members (supports ETag, If-None-Match and ?wait=SECONDS up to 60)
GET  /health              status: 200 if the registry accepts registrations, otherwise 503
GET  /metrics             metrics of the registry in Prometheus format
GET  /prometheus/targets  list the members as targets for Prometheus HTTP service discovery
POST /register            add or update a member: {\"instance_id\"?, \"location\", \"ip\", \"port\"}
POST /heartbeat           renew the lease of a member: {\"instance_id\"}
POST /deregister          remove a member: {\"instance_id\"}
";

/// The state shared by all routes.
pub struct Api {
    directory: Arc<Directory>,
    exporter: Arc<Exporter>,
    allowed_networks: RwLock<Vec<IpNet>>,
    polls: Arc<Semaphore>,
    sending: Arc<Semaphore>,
    stopping: watch::Receiver<bool>,
}

impl Api {
    /// Serves the roster of `directory`. At most `polls` requests may wait at the same time; all are answered when `stopping`
    /// becomes true.
    #[must_use]
    pub fn new(
        directory: Arc<Directory>,
        exporter: Arc<Exporter>,
        allowed_networks: Vec<IpNet>,
        polls: usize,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        let polls = Arc::new(Semaphore::new(polls.min(Semaphore::MAX_PERMITS)));
        let (allowed_networks, sending) = (RwLock::new(allowed_networks), Arc::new(Semaphore::new(SENDING)));
        Self { directory, exporter, allowed_networks, polls, sending, stopping }
    }

    /// Accepts registrations only with addresses in these networks from now on. An empty list accepts all.
    pub fn set_allowed_networks(&self, networks: Vec<IpNet>) {
        *self.allowed_networks.write().unwrap_or_else(PoisonError::into_inner) = networks;
    }

    async fn register(&self, peer: Option<serve::Peer>, body: &[u8]) -> Result<Response, Response> {
        let registration = Registration::from_json(body).map_err(|e| bad_request(&e))?;
        check_loopback(&registration, peer).map_err(|e| bad_request(&e))?;
        self.check_network(&registration).map_err(|e| bad_request(&e))?;
        let candidate = Candidate::from_registration(registration);
        let admission = self.directory.register(candidate.clone()).await.map_err(|e| store_error(&e))?;
        let Candidate { instance_id, location, ip, port } = candidate;
        match admission {
            Admission::Joined => {
                tracing::info!(instance = %instance_id, %location, %ip, port, "member joined the ring");
            }
            Admission::Moved => tracing::info!(instance = %instance_id, %location, %ip, port, "member moved"),
            Admission::Renewed => {
                tracing::debug!(instance = %instance_id, %location, %ip, port, "member registered again");
            }
        }
        Ok(ok(&Registered { instance_id, status: "registered", known: admission.known() }))
    }

    fn check_network(&self, registration: &Registration) -> Result<(), FieldError> {
        let allowed = self.allowed_networks.read().unwrap_or_else(PoisonError::into_inner);
        if allowed.is_empty() || allowed.iter().any(|network| network.contains(&registration.ip)) {
            return Ok(());
        }
        let networks = allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let problem = format!("expected an address in registry.allowed_networks ({networks}), got {}", registration.ip);
        Err(FieldError { field: "ip", problem })
    }

    async fn heartbeat(&self, body: &[u8]) -> Result<Response, Response> {
        let Identification { instance_id } = Identification::from_json(body).map_err(|e| bad_request(&e))?;
        if self.directory.heartbeat(&instance_id).await.map_err(|e| store_error(&e))? {
            return Ok(ok(&json!({ "status": "ok" })));
        }
        let text = format!("instance_id: {instance_id} is not registered; register first");
        Err(serve::error(StatusCode::NOT_FOUND, text))
    }

    async fn deregister(&self, body: &[u8]) -> Result<Response, Response> {
        let Identification { instance_id } = Identification::from_json(body).map_err(|e| bad_request(&e))?;
        if self.directory.deregister(&instance_id).await.map_err(|e| store_error(&e))? {
            tracing::info!(instance = %instance_id, "member left the ring: it deregistered");
        }
        Ok(ok(&json!({ "status": "deregistered" })))
    }

    async fn members(
        self: &Arc<Self>,
        query: Vec<(String, String)>,
        known: Option<String>,
    ) -> Result<Response, Response> {
        let view = self.view().await?;
        let conditional = known.is_some();
        let is_known = known.is_some_and(|known| knows(&known, &view.tag));
        let Some(limit) = wait(&query).map_err(|e| bad_request(&e))? else {
            return Ok(self.roster(&view, is_known).await);
        };
        if conditional && !is_known {
            return Ok(waited(self.roster(&view, false).await));
        }
        let place = Arc::clone(&self.polls).try_acquire_owned().map_err(|_| {
            let text = "too many requests are waiting for the roster to change; ask without wait, or later";
            serve::retry_after(serve::error(StatusCode::TOO_MANY_REQUESTS, text), RETRY_AFTER)
        })?;
        let (api, waiting, tag) = (Arc::clone(self), self.exporter.waiting(), Arc::clone(&view.tag));
        Ok(serve::later(move || async move {
            let mut stopping = api.stopping.clone();
            tokio::select! {
                () = api.directory.wait_for(limit, |view| view.tag != tag) => {}
                // An error means that the sender is gone: the registry is stopping as well.
                _ = stopping.wait_for(|stopping| *stopping) => {}
            }
            let is_same = |view: &View| view.tag == tag;
            let mut view = api.view().await;
            let mut sending = None;
            if view.as_ref().is_ok_and(|view| !is_same(view)) {
                sending = tokio::select! {
                    permit = Arc::clone(&api.sending).acquire_owned() => permit.ok(),
                    _ = stopping.wait_for(|stopping| *stopping) => None,
                };
                // There may be a newer one by now.
                view = api.view().await;
            }
            drop((place, waiting));
            let mut response = match view {
                Ok(view) => waited(api.roster(&view, conditional && is_same(&view)).await),
                Err(error) => error,
            };
            if let Some(permit) = sending {
                serve::until_sent(&mut response, permit);
            }
            api.exporter.request("/members", response.status().as_u16(), None);
            response
        }))
    }

    /// Formats `view`, or a 304 if the client has it already.
    async fn roster(&self, view: &View, unchanged: bool) -> Response {
        let mut response = if unchanged {
            let mut response = Response::default();
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        } else {
            json_response(self.directory.listing(view).await)
        };
        let headers = response.headers_mut();
        headers.insert(ETAG, view.etag.clone());
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if let Some(age) = self.directory.stale() {
            headers.insert(STALE_HEADER, age.as_secs().into());
        }
        response
    }

    async fn health(&self) -> Result<Response, Response> {
        let view = self.directory.view().await;
        let problem = self.directory.problem();
        let health = Health {
            status: if problem.is_none() { "healthy" } else { "unhealthy" },
            members_count: view.map_or(0, |view| view.members.len()),
            store: self.directory.store_name(),
            timestamp: clock::wall().epoch_seconds_f64(),
            version: env!("CARGO_PKG_VERSION"),
            reason: problem,
        };
        let mut response = ok(&health);
        if health.reason.is_some() {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        Ok(response)
    }

    async fn targets(&self) -> Result<Response, Response> {
        let view = self.view().await?;
        let groups: Vec<_> = view
            .members
            .iter()
            .map(|member| {
                json!({
                    "targets": [std::net::SocketAddr::new(member.ip, member.port.get()).to_string()],
                    "labels": {
                        "__meta_netring_location": member.location,
                        "__meta_netring_instance_id": member.instance_id,
                        "netring_location": member.location,
                        "netring_instance": member.instance_id,
                    },
                })
            })
            .collect();
        Ok(ok(&groups))
    }

    fn metrics(&self, accept_encoding: Option<&str>) -> Response {
        let text = self.exporter.text(self.directory.latest().as_deref());
        serve::text::Page::new(text).reply(accept_encoding)
    }

    async fn view(&self) -> Result<Arc<View>, Response> {
        self.directory.view().await.map_err(|e| store_error(&e))
    }
}

/// The answer to `GET /health`.
#[derive(Serialize)]
struct Health {
    status: &'static str,
    members_count: usize,
    store: &'static str,
    timestamp: f64,
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// All routes, with metrics. Request bodies are limited by `limits`.
pub fn routes(
    api: &Arc<Api>,
    limits: &serve::Limits,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + use<> {
    let exporter = Arc::clone(&api.exporter);
    let answered = writing(api, limits).or(reading(api)).unify().recover(serve::recover).unify();
    warp::any().map(clock::monotonic).and(warp::path::full()).and(answered).map(
        move |began, path: FullPath, response: Response| {
            if serve::is_later(&response) {
                // Counted when it is answered.
                return response;
            }
            let route = ROUTES.into_iter().find(|route| *route == path.as_str()).unwrap_or("other");
            let took = clock::monotonic().saturating_duration_since(began);
            let waited = response.extensions().get::<serve::Waited>().is_some();
            exporter.request(route, response.status().as_u16(), (!waited).then_some(took));
            response
        },
    )
}

fn reading(api: &Arc<Api>) -> BoxedFilter<(Response,)> {
    let with_api = with(api);
    let page = warp::path::end().and(serve::get()).map(|| PAGE.into_response());
    let members = warp::path!("members")
        .and(serve::get())
        .and(with_api.clone())
        .and(warp::query())
        .and(warp::header::optional(IF_NONE_MATCH.as_str()))
        .then(|api: Arc<Api>, query: Vec<_>, known| async move { either(api.members(query, known).await) });
    let health = warp::path!("health")
        .and(serve::get())
        .and(with_api.clone())
        .then(|api: Arc<Api>| async move { either(api.health().await) });
    let targets = warp::path!("prometheus" / "targets")
        .and(serve::get())
        .and(with_api.clone())
        .then(|api: Arc<Api>| async move { either(api.targets().await) });
    let metrics = warp::path!("metrics")
        .and(serve::get())
        .and(with_api)
        .and(warp::header::optional(ACCEPT_ENCODING.as_str()))
        .map(|api: Arc<Api>, accepted: Option<String>| api.metrics(accepted.as_deref()));
    members.or(page).unify().or(health).unify().or(targets).unify().or(metrics).unify().boxed()
}

fn writing(api: &Arc<Api>, limits: &serve::Limits) -> BoxedFilter<(Response,)> {
    let posted = serve::post().and(with(api)).and(serve::body(limits));
    let register = warp::path!("register")
        .and(warp::ext::optional::<serve::Peer>())
        .and(posted.clone())
        .then(|peer, api: Arc<Api>, body: Bytes| async move { either(api.register(peer, &body).await) });
    let heartbeat = warp::path!("heartbeat")
        .and(posted.clone())
        .then(|api: Arc<Api>, body: Bytes| async move { either(api.heartbeat(&body).await) });
    let deregister = warp::path!("deregister")
        .and(posted)
        .then(|api: Arc<Api>, body: Bytes| async move { either(api.deregister(&body).await) });
    heartbeat.or(register).unify().or(deregister).unify().boxed()
}

fn with(api: &Arc<Api>) -> impl Filter<Extract = (Arc<Api>,), Error = Infallible> + Clone + use<> {
    let api = Arc::clone(api);
    warp::any().map(move || Arc::clone(&api))
}

/// Marks the answer to a request that was allowed to wait: the client sends the next one at once.
fn waited(mut response: Response) -> Response {
    let _ = response.extensions_mut().insert(serve::Waited);
    response
}

fn either(answer: Result<Response, Response>) -> Response {
    answer.unwrap_or_else(std::convert::identity)
}

fn ok(body: &impl Serialize) -> Response {
    json_response(serde_json::to_vec(body).expect("answers have text keys and plain values only").into())
}

fn json_response(body: Bytes) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Rejects a loopback address from another host. Every member that probed it would reach itself and report the peer as up.
fn check_loopback(registration: &Registration, peer: Option<serve::Peer>) -> Result<(), FieldError> {
    let Registration { ip, .. } = registration;
    if !ip.is_loopback() || peer.is_none_or(|peer| peer.address.ip().is_loopback()) {
        return Ok(());
    }
    let problem = format!(
        "a loopback address can only be reached from its own host; expected an address at which other members can reach this \
         member (set member.server.advertise_ip), got {ip}"
    );
    Err(FieldError { field: "ip", problem })
}

fn bad_request(e: &FieldError) -> Response {
    serve::error(StatusCode::BAD_REQUEST, e.to_string())
}

fn store_error(e: &StoreError) -> Response {
    let status = match e {
        StoreError::Full(_) => StatusCode::TOO_MANY_REQUESTS,
        StoreError::Unreachable(_)
        | StoreError::Timeout(_)
        | StoreError::Failed(_)
        | StoreError::UnexpectedReply(_)
        | StoreError::Unwritable(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    serve::retry_after(serve::error(status, e.to_string()), RETRY_AFTER)
}

/// How long the query asks to wait; `None` if it does not.
fn wait(query: &[(String, String)]) -> Result<Option<Duration>, FieldError> {
    let Some((_, text)) = query.iter().find(|(name, _)| name == "wait") else { return Ok(None) };
    let seconds = text.parse().ok().filter(|seconds| (0.0..=WAIT_MAX.as_secs_f64()).contains(seconds));
    let shown: String = text.chars().take(40).collect();
    let problem = || format!("expected seconds from 0 to {}, got {shown:?}", WAIT_MAX.as_secs());
    let seconds = seconds.ok_or_else(|| FieldError { field: "wait", problem: problem() })?;
    Ok(Some(Duration::from_secs_f64(seconds)).filter(|limit| !limit.is_zero()))
}

/// Whether `If-None-Match: known` contains `tag`, by weak comparison (RFC 9110 section 8.8.3.2).
fn knows(known: &str, tag: &str) -> bool {
    known.split(',').map(str::trim).any(|one| {
        let one = one.strip_prefix("W/").unwrap_or(one);
        one == "*" || one.strip_prefix('"').and_then(|one| one.strip_suffix('"')) == Some(tag)
    })
}

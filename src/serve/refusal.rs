//! Error answers: a status and the body `{"error": "..."}`.

use std::convert::Infallible;
use std::time::Duration;

use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Method, StatusCode};
use warp::filters::body::BodyDeserializeError;
use warp::reject::{
    InvalidHeader, InvalidQuery, LengthRequired, MethodNotAllowed, MissingHeader, PayloadTooLarge, Reject,
    UnsupportedMediaType,
};
use warp::reply::Response;
use warp::{Filter, Rejection};

use crate::wire::ErrorBody;

/// An error answer with this status and the body `{"error": text}`.
#[must_use]
pub fn error(status: StatusCode, text: impl Into<String>) -> Response {
    let body = serde_json::to_vec(&ErrorBody { error: text.into() }).expect("a struct of one text is always JSON");
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Adds `Retry-After` to an answer, in whole seconds, rounded up, at least 1.
#[must_use]
pub fn retry_after(mut response: Response, pause: Duration) -> Response {
    let seconds = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    response
}

/// A rejection that [`recover`] answers with this status and text. Filters use it to reject a request.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The status of the answer.
    status: StatusCode,
    /// What was wrong, in one sentence.
    text: String,
}

impl Reject for Refusal {}

impl Refusal {
    /// A rejection with this status and text.
    pub(super) fn rejection(status: StatusCode, text: impl Into<String>) -> Rejection {
        warp::reject::custom(Self { status, text: text.into() })
    }
}

/// The path does not support the method of the request.
#[derive(Debug)]
struct WrongMethod {
    allow: &'static str,
}

impl Reject for WrongMethod {}

/// Accepts `GET` and `HEAD`. Use it after the path filter, so that only requests for that path are answered with 405.
#[must_use]
pub fn get() -> impl Filter<Extract = (), Error = Rejection> + Copy {
    allowing(|method| matches!(*method, Method::GET | Method::HEAD), "GET, HEAD")
}

/// Accepts `POST`. Use it after the path filter, so that only requests for that path are answered with 405.
#[must_use]
pub fn post() -> impl Filter<Extract = (), Error = Rejection> + Copy {
    allowing(|method| *method == Method::POST, "POST")
}

fn allowing(
    allowed: impl Fn(&Method) -> bool + Copy + Send + Sync + 'static,
    allow: &'static str,
) -> impl Filter<Extract = (), Error = Rejection> + Copy {
    warp::method()
        .and_then(move |method: Method| {
            std::future::ready(if allowed(&method) { Ok(()) } else { Err(warp::reject::custom(WrongMethod { allow })) })
        })
        .untuple_one()
}

/// Turns a rejection into an error answer. The last step of all routes.
///
/// # Errors
///
/// Never. [`Filter::recover`] requires the type.
pub async fn recover(rejection: Rejection) -> Result<Response, Infallible> {
    Ok(answer_to(&rejection))
}

fn answer_to(rejection: &Rejection) -> Response {
    if rejection.is_not_found() {
        return error(StatusCode::NOT_FOUND, "no such path");
    }
    if let Some(Refusal { status, text }) = rejection.find() {
        return error(*status, text.as_str());
    }
    if let Some(WrongMethod { allow }) = rejection.find() {
        let mut response =
            error(StatusCode::METHOD_NOT_ALLOWED, format!("method not allowed; this path supports {allow}"));
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        return response;
    }
    if let Some(e) = rejection.find::<BodyDeserializeError>() {
        return error(StatusCode::BAD_REQUEST, format!("body: {e}"));
    }
    if let Some(e) = rejection.find::<MissingHeader>() {
        return error(StatusCode::BAD_REQUEST, format!("the header {} is missing", e.name()));
    }
    if let Some(e) = rejection.find::<InvalidHeader>() {
        return error(StatusCode::BAD_REQUEST, format!("the header {} is invalid", e.name()));
    }
    let (status, text) = if rejection.find::<InvalidQuery>().is_some() {
        (StatusCode::BAD_REQUEST, "the query string is invalid")
    } else if rejection.find::<LengthRequired>().is_some() {
        (StatusCode::LENGTH_REQUIRED, "a Content-Length is required")
    } else if rejection.find::<PayloadTooLarge>().is_some() {
        (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large")
    } else if rejection.find::<UnsupportedMediaType>().is_some() {
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be JSON")
    } else if rejection.find::<MethodNotAllowed>().is_some() {
        (StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
    } else {
        tracing::error!("unexpected rejection of a request: {rejection:?}");
        (StatusCode::INTERNAL_SERVER_ERROR, "internal error; see the log")
    };
    error(status, text)
}

#[cfg(test)]
mod tests {
    use warp::Reply;

    use super::*;

    fn routes() -> impl Filter<Extract = impl Reply, Error = Infallible> + Clone {
        let read = warp::path!("read").and(get()).map(|| "read");
        let write = warp::path!("write").and(post()).and(warp::body::json()).map(|body: u8| body.to_string());
        let query = warp::path!("query").and(warp::query()).map(|(): ()| "");
        let header = warp::path!("header").and(warp::header::<u8>("x-number")).map(|n: u8| n.to_string());
        let full = warp::path!("full").and_then(|| async {
            Err::<String, _>(Refusal::rejection(StatusCode::TOO_MANY_REQUESTS, "the ring is full"))
        });
        read.or(write).or(query).or(header).or(full).recover(recover)
    }

    async fn refused(request: warp::test::RequestBuilder) -> (u16, String, Option<String>) {
        let response = request.reply(&routes()).await;
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        let body: ErrorBody = serde_json::from_slice(response.body()).unwrap();
        let allow = response.headers().get(ALLOW).map(|v| v.to_str().unwrap().to_owned());
        (response.status().as_u16(), body.error, allow)
    }

    #[tokio::test]
    async fn every_rejection_is_json_with_its_own_status() {
        let request = warp::test::request;
        let cases = [
            (request().path("/nowhere"), 404, "no such path"),
            (request().path("/read").method("DELETE"), 405, "this path supports GET, HEAD"),
            (request().path("/write").method("POST").body("{"), 400, "body: "),
            (request().path("/write").method("POST").header("content-type", "text/csv").body("1"), 415, "must be JSON"),
            (request().path("/query?a=%"), 400, "query"),
            (request().path("/header"), 400, "the header x-number is missing"),
            (request().path("/header").header("x-number", "many"), 400, "the header x-number is invalid"),
            (request().path("/full"), 429, "the ring is full"),
        ];
        for (request, status, text) in cases {
            let (got, error, _) = refused(request).await;
            assert!(got == status && error.contains(text), "expected {status} {text:?}, got {got} {error:?}");
        }
    }

    #[tokio::test]
    async fn a_wrong_method_is_told_the_right_ones() {
        let wrong = |method: &str, path: &str| warp::test::request().method(method).path(path);
        assert_eq!(refused(wrong("POST", "/read")).await.2.as_deref(), Some("GET, HEAD"));
        assert_eq!(refused(wrong("GET", "/write")).await.2.as_deref(), Some("POST"));
    }

    #[tokio::test]
    async fn head_is_answered_where_get_is() {
        assert_eq!(warp::test::request().method("HEAD").path("/read").reply(&routes()).await.status(), 200);
    }

    #[test]
    fn retry_after_is_in_whole_seconds_and_never_zero() {
        let header = |pause| {
            let response = retry_after(error(StatusCode::SERVICE_UNAVAILABLE, "the store is away"), pause);
            response.headers()[RETRY_AFTER].to_str().unwrap().to_owned()
        };
        assert_eq!(header(Duration::ZERO), "1");
        assert_eq!(header(Duration::from_secs(5)), "5");
        assert_eq!(header(Duration::from_millis(5001)), "6");
    }
}

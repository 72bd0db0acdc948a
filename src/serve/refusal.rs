//! Answers to requests that cannot be carried out: always the right status, always `{"error": "..."}`.

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

/// An answer with this status and the body `{"error": text}`.
#[must_use]
pub fn error(status: StatusCode, text: impl Into<String>) -> Response {
    let body = serde_json::to_vec(&ErrorBody { error: text.into() }).expect("a struct of one text is always JSON");
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The same answer with `Retry-After`, in whole seconds rounded up, at least one.
#[must_use]
pub fn retry_after(mut response: Response, pause: Duration) -> Response {
    let seconds = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    response
}

/// A rejection that [`recover`] answers with its status and text: how a filter refuses a request.
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

/// The method is none that this path has; says which it has.
#[derive(Debug)]
struct WrongMethod {
    allow: &'static str,
}

impl Reject for WrongMethod {}

/// Lets `GET` and `HEAD` through; use it after the path, so that the 405 of any other method is about that path.
#[must_use]
pub fn get() -> impl Filter<Extract = (), Error = Rejection> + Copy {
    allowing(|method| matches!(*method, Method::GET | Method::HEAD), "GET, HEAD")
}

/// Lets `POST` through; use it after the path, so that the 405 of any other method is about that path.
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

/// Turns whatever a filter rejected into an error answer; the last step of every set of routes.
///
/// # Errors
///
/// Never; the type is what [`Filter::recover`] asks for.
pub async fn recover(rejection: Rejection) -> Result<Response, Infallible> {
    Ok(answer_to(&rejection))
}

fn answer_to(rejection: &Rejection) -> Response {
    if rejection.is_not_found() {
        return error(StatusCode::NOT_FOUND, "no such path here");
    }
    if let Some(Refusal { status, text }) = rejection.find() {
        return error(*status, text.as_str());
    }
    if let Some(WrongMethod { allow }) = rejection.find() {
        let mut response = error(StatusCode::METHOD_NOT_ALLOWED, format!("this path has only {allow}"));
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
        return error(StatusCode::BAD_REQUEST, format!("the header {} cannot be read", e.name()));
    }
    let (status, text) = if rejection.find::<InvalidQuery>().is_some() {
        (StatusCode::BAD_REQUEST, "the query after the question mark cannot be read")
    } else if rejection.find::<LengthRequired>().is_some() {
        (StatusCode::LENGTH_REQUIRED, "a Content-Length is required")
    } else if rejection.find::<PayloadTooLarge>().is_some() {
        (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large")
    } else if rejection.find::<UnsupportedMediaType>().is_some() {
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be JSON")
    } else if rejection.find::<MethodNotAllowed>().is_some() {
        (StatusCode::METHOD_NOT_ALLOWED, "this path does not have that method")
    } else {
        tracing::error!("a request was rejected for a reason that has no answer: {rejection:?}");
        (StatusCode::INTERNAL_SERVER_ERROR, "the request could not be handled; the log says why")
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
            (request().path("/nowhere"), 404, "no such path here"),
            (request().path("/read").method("DELETE"), 405, "this path has only GET, HEAD"),
            (request().path("/write").method("POST").body("{"), 400, "body: "),
            (request().path("/write").method("POST").header("content-type", "text/csv").body("1"), 415, "must be JSON"),
            (request().path("/query?a=%"), 400, "query"),
            (request().path("/header"), 400, "the header x-number is missing"),
            (request().path("/header").header("x-number", "many"), 400, "the header x-number cannot be read"),
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

//! What only asks a registry: `/auth`, `/images/search` and `/distribution/{name}/json`.

use super::images::credentials;
use crate::serve::error::{ApiError, ApiResult};
use crate::serve::extract::{Json, Query};
use crate::serve::state::AppState;
use crate::serve::translate::images as wire;
use axum::Router;
use axum::extract::{Path, State};
use axum::routing::{get, post};
use engine::error::Class;
use engine::images::{ImageError, ImageService, Reference};
use http::HeaderMap;
use serde_json::{Value, json};

/// Results of a search where the client does not say (moby, `registry.Service.Search`).
const SEARCH_DEFAULT: usize = 25;
const SEARCH_MAX: usize = 100;

pub fn router() -> Router<AppState> {
    Router::new()
        .route("/auth", post(auth))
        .route("/images/search", get(search))
        .route("/distribution/{*name}", get(distribution))
}

async fn auth(
    State(images): State<ImageService>,
    Json(body): Json<wire::AuthBody>,
) -> ApiResult<Json<Value>> {
    let (domain, credentials) = body.into_parts();
    let token = images.login(&domain, &credentials).await?;
    Ok(Json(json!({
        "Status": "Login Succeeded",
        "IdentityToken": token.unwrap_or_default(),
    })))
}

async fn search(
    State(images): State<ImageService>,
    query: Query,
    headers: HeaderMap,
) -> ApiResult<Json<Value>> {
    let term = query.text("term").unwrap_or_default();
    if term.contains("://") {
        return Err(ApiError::invalid(format!(
            "invalid repository name: repository name ({term}) should not have a scheme"
        )));
    }
    let limit = match query.number::<i64>("limit")? {
        None | Some(0) => SEARCH_DEFAULT,
        Some(limit) => usize::try_from(limit)
            .ok()
            .filter(|limit| *limit <= SEARCH_MAX)
            .ok_or_else(|| {
                ApiError::invalid(format!(
                    "limit {limit} is outside the range of [1, {SEARCH_MAX}]"
                ))
            })?,
    };
    let filter = wire::search_filter(&query)?;
    let domain = term.split('/').next().unwrap_or_default();
    let found = images
        .search(term, limit, credentials(&headers, domain)?.as_ref())
        .await?;
    Ok(Json(Value::Array(
        found
            .iter()
            .filter(|found| filter.fits(found))
            .map(wire::found)
            .collect(),
    )))
}

async fn distribution(
    State(images): State<ImageService>,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Json<Value>> {
    let name = path
        .strip_suffix("/json")
        .filter(|name| !name.is_empty())
        .ok_or_else(|| ApiError::new(Class::NotFound, "page not found"))?;
    let reference = Reference::parse(name)
        .map_err(ImageError::from)?
        .or_latest();
    let credentials = credentials(&headers, reference.repository.domain())?;
    let found = images
        .distribution(&reference, credentials.as_ref())
        .await?;
    Ok(Json(wire::distribution(&found)))
}

#[cfg(test)]
mod tests {
    use crate::serve::state::{AppState, Services};
    use crate::serve::testing::{self, send_to};
    use engine::images::fake::FakeImages;
    use http::Method;
    use serde_json::json;

    #[tokio::test]
    async fn a_registry_is_asked_and_nothing_is_stored() {
        let fakes = FakeImages::default();
        let state = AppState::new(Services {
            images: fakes.empty_service(),
            ..testing::services()
        });
        fakes
            .registry
            .push_image("a.example/me/thing", &["one"], json!({}));
        let get = async |path: &str| send_to(&state, Method::GET, path, "").await;
        let answer = get("/distribution/a.example/me/thing:latest/json").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let found = answer.json();
        assert!(
            found["Descriptor"]["digest"]
                .as_str()
                .is_some_and(|digest| digest.starts_with("sha256:"))
        );
        assert_eq!(found["Platforms"][0]["os"], "linux");
        assert_eq!(get("/distribution/a.example/none/json").await.status, 404);
        assert_eq!(get("/distribution/UPPER/json").await.status, 400);
        assert_eq!(get("/images/json").await.json(), json!([]));

        let found = get("/images/search?term=a.example/thing").await.json();
        assert_eq!(found[0]["name"], "me/thing");
        assert_eq!(found[0]["star_count"], 0);
        let none = get(
            "/images/search?term=a.example/thing&filters=%7B%22is-official%22:%5B%22true%22%5D%7D",
        )
        .await;
        assert_eq!(none.json(), json!([]));
        assert_eq!(get("/images/search?term=x&limit=101").await.status, 400);
        assert_eq!(get("/images/search?term=x&limit=a").await.status, 400);
        assert_eq!(get("/images/search?term=https://x").await.status, 400);

        let body = r#"{"username":"me","password":"right","serveraddress":"a.example"}"#;
        let answer = send_to(&state, Method::POST, "/auth", body).await;
        assert_eq!(
            answer.json(),
            json!({"Status": "Login Succeeded", "IdentityToken": ""})
        );
        let body = r#"{"username":"me","password":"wrong"}"#;
        assert_eq!(
            send_to(&state, Method::POST, "/auth", body).await.status,
            401
        );
    }
}

//! Areas of Docker's API that this engine does not have: answered so that clients (`docker info`, compose, IDEs) go on, and
//! people read why.

use crate::serve::error::ApiError;
use crate::serve::extract::Json;
use crate::serve::state::AppState;
use axum::Router;
use axum::extract::{Path, Request};
use axum::routing::{any, get, post};
use engine::error::Class;
use http::Method;
use serde_json::json;

pub fn router() -> Router<AppState> {
    let mut router = Router::new()
        .route("/plugins", get(async || Json(json!([]))))
        .route("/plugins/{*rest}", any(plugins))
        .route("/build/cancel", post(cancel_build))
        .route("/session", any(session))
        .route("/grpc", any(session))
        .route("/swarm/leave", post(not_in_swarm))
        .route("/swarm/init", post(no_swarm))
        .route("/swarm/join", post(no_swarm));
    for area in ["swarm", "nodes", "services", "tasks", "secrets", "configs"] {
        router = router.route(&format!("/{area}"), any(not_a_manager));
        router = router.route(&format!("/{area}/{{*rest}}"), any(not_a_manager));
    }
    router
}

/// The text of an engine that could be a manager: scripts and compose look for its beginning.
async fn not_a_manager() -> ApiError {
    ApiError::new(
        Class::Unavailable,
        "This node is not a swarm manager. This engine does not have Swarm mode.",
    )
}

async fn not_in_swarm() -> ApiError {
    ApiError::new(Class::Unavailable, "This node is not part of a swarm")
}

async fn no_swarm() -> ApiError {
    ApiError::unsupported("this engine does not have Swarm mode")
}

/// It is for BuildKit's builds, which have an id of the client's choice.
async fn cancel_build() -> ApiError {
    ApiError::unsupported("a build ends when its client closes the connection of POST /build")
}

async fn session() -> ApiError {
    ApiError::new(
        Class::NotFound,
        "page not found: this engine has no BuildKit sessions; set DOCKER_BUILDKIT=0, or use 'berth build'",
    )
}

async fn plugins(Path(rest): Path<String>, request: Request) -> ApiError {
    let name = rest.strip_suffix("/json").unwrap_or(&rest);
    let reads = request.method() == Method::GET || request.method() == Method::DELETE;
    if reads && rest != "privileges" {
        return ApiError::new(Class::NotFound, format!("plugin {name:?} not found"));
    }
    ApiError::unsupported("this engine does not have plugins")
}

#[cfg(test)]
mod tests {
    use crate::serve::testing;
    use http::Method;

    async fn check(method: Method, path: &str, status: u16, part: &str) {
        let answer = testing::send(testing::services(), method, path, "").await;
        assert_eq!(answer.status.as_u16(), status, "{path}: {}", answer.text());
        assert!(answer.text().contains(part), "{path}: {}", answer.text());
    }

    #[tokio::test]
    async fn absent_areas_say_so() {
        check(
            Method::GET,
            "/swarm",
            503,
            "This node is not a swarm manager",
        )
        .await;
        check(
            Method::GET,
            "/v1.40/services/x",
            503,
            "This node is not a swarm manager",
        )
        .await;
        check(Method::POST, "/swarm/leave", 503, "not part of a swarm").await;
        check(Method::POST, "/swarm/init", 501, "Swarm").await;
        check(Method::GET, "/plugins", 200, "[]").await;
        check(
            Method::GET,
            "/plugins/a/b/json",
            404,
            "plugin \\\"a/b\\\" not found",
        )
        .await;
        check(Method::POST, "/plugins/pull", 501, "plugins").await;
        check(Method::POST, "/build/cancel", 501, "closes the connection").await;
        check(Method::POST, "/session", 404, "page not found").await;
    }
}

//! To come.

use crate::serve::state::AppState;
use axum::Router;

pub fn router() -> Router<AppState> {
    Router::new()
}

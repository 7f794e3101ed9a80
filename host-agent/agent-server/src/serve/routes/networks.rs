//! `/networks`: those there are. Making more comes later.

use crate::serve::error::{ApiError, ApiResult};
use crate::serve::extract::{Json, Query};
use crate::serve::state::AppState;
use axum::Router;
use axum::extract::{Path, State};
use axum::routing::{get, post};
use engine::clock::rfc3339;
use engine::containers::ContainerService;
use engine::error::Class;
use engine::networks::{NetworkBackend, NetworkFacts};
use engine_api::Filters;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

pub fn router() -> Router<AppState> {
    Router::new()
        .route("/networks", get(list))
        .route("/networks/create", post(not_yet))
        .route("/networks/prune", post(prune))
        .route("/networks/{id}", get(inspect).delete(remove))
        .route("/networks/{id}/connect", post(not_yet))
        .route("/networks/{id}/disconnect", post(not_yet))
}

const FILTERS: &[&str] = &["dangling", "driver", "id", "label", "name", "scope", "type"];

async fn list(
    State(backend): State<Arc<dyn NetworkBackend>>,
    query: Query,
) -> ApiResult<Json<Value>> {
    let filters = query.filters()?;
    filters.only(FILTERS)?;
    let dangling = filters.flag("dangling")?;
    let networks = backend.networks();
    let fitting = networks
        .iter()
        .filter(|network| fits(&filters, network))
        // The predefined ones are in use by definition.
        .filter(|_| dangling != Some(true))
        // A list does not say who is connected.
        .map(|network| shown(network, None));
    Ok(Json(fitting.collect()))
}

fn fits(filters: &Filters, network: &NetworkFacts) -> bool {
    filters.part_of("name", &network.name)
        && filters.part_of("id", network.id.as_str())
        && filters.exact("driver", &network.driver)
        && filters.exact("scope", "local")
        && filters.exact("type", "builtin")
        && filters.labels(&BTreeMap::new())
}

async fn inspect(
    State(backend): State<Arc<dyn NetworkBackend>>,
    State(containers): State<Arc<ContainerService>>,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    Ok(Json(shown(&find(&*backend, &id)?, Some(&containers))))
}

/// By full id, name, or the beginning of an id.
fn find(backend: &dyn NetworkBackend, asked: &str) -> ApiResult<NetworkFacts> {
    let networks = backend.networks();
    let exact = networks
        .iter()
        .find(|network| network.id.as_str() == asked || network.name == asked);
    if let Some(network) = exact {
        return Ok(network.clone());
    }
    let mut beginning = networks
        .iter()
        .filter(|network| !asked.is_empty() && network.id.as_str().starts_with(asked));
    match (beginning.next(), beginning.next()) {
        (Some(network), None) => Ok(network.clone()),
        (Some(_), Some(_)) => Err(ApiError::invalid(format!(
            "network {asked} is ambiguous (2 matches found on ID prefix)"
        ))),
        (None, _) => Err(ApiError::new(
            Class::NotFound,
            format!("network {asked} not found"),
        )),
    }
}

async fn remove(
    State(backend): State<Arc<dyn NetworkBackend>>,
    Path(id): Path<String>,
) -> ApiError {
    match find(&*backend, &id) {
        Ok(network) => ApiError::new(
            Class::Denied,
            format!(
                "{} is a pre-defined network and cannot be removed",
                network.name
            ),
        ),
        Err(error) => error,
    }
}

/// The predefined networks are never pruned, and there are no others.
async fn prune() -> Json<Value> {
    Json(json!({ "NetworksDeleted": null }))
}

async fn not_yet() -> ApiError {
    ApiError::unsupported(
        "user-defined networks arrive in a later version of this engine; there are bridge, host and none",
    )
}

/// With the service, who is connected is shown, by name.
fn shown(network: &NetworkFacts, names: Option<&ContainerService>) -> Value {
    let ranges: Vec<Value> = network
        .subnets
        .iter()
        .map(|subnet| match &subnet.gateway {
            Some(gateway) => json!({ "Subnet": subnet.range, "Gateway": gateway }),
            None => json!({ "Subnet": subnet.range }),
        })
        .collect();
    let mut containers = Map::new();
    if let Some(names) = names {
        for (container, endpoint) in &network.endpoints {
            let with_length = |address: Option<std::net::IpAddr>, length: u8| {
                address.map_or_else(String::new, |address| format!("{address}/{length}"))
            };
            let name = names
                .find(container.as_str())
                .map(|container| container.name());
            containers.insert(
                container.to_string(),
                json!({
                    "Name": name.unwrap_or_default(),
                    "EndpointID": endpoint.endpoint_id,
                    "MacAddress": endpoint.mac_address,
                    "IPv4Address": with_length(Some(endpoint.address), endpoint.prefix_length),
                    "IPv6Address": with_length(endpoint.ipv6_address, endpoint.ipv6_prefix_length),
                }),
            );
        }
    }
    let ipv6 = network
        .subnets
        .iter()
        .any(|subnet| subnet.range.contains(':'));
    json!({
        "Name": network.name,
        "Id": network.id.as_str(),
        "Created": rfc3339(network.created),
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": true,
        "EnableIPv6": ipv6,
        "IPAM": {
            "Driver": "default",
            "Options": null,
            "Config": if ranges.is_empty() { Value::Null } else { ranges.into() },
        },
        "Internal": false,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": containers,
        "Options": network.options,
        "Labels": {},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::testing::{self, send, send_to};
    use http::Method;

    #[tokio::test]
    async fn networks_are_listed_and_found_by_name_and_id() {
        let state = AppState::new(testing::services());
        let get = async |path: &str| send_to(&state, Method::GET, path, "").await.json();
        let list = get("/networks").await;
        assert_eq!(list[0]["Name"], "bridge");
        assert_eq!(list[0]["IPAM"]["Config"][0]["Subnet"], "198.51.100.0/24");
        let id = list[0]["Id"].as_str().unwrap().to_owned();
        for asked in ["bridge", &id, &id[..12]] {
            let one = get(&format!("/networks/{asked}")).await;
            assert_eq!(one["Name"], "bridge", "{asked}");
        }
        let filters = "%7B%22driver%22%3A%5B%22host%22%5D%7D";
        let hosts = get(&format!("/networks?filters={filters}")).await;
        assert_eq!(hosts.as_array().unwrap().len(), 1);
        assert_eq!(hosts[0]["Name"], "host");
    }

    #[tokio::test]
    async fn what_cannot_be_done_is_said() {
        for (method, path, status, part) in [
            (
                Method::GET,
                "/networks/nowhere",
                404,
                "network nowhere not found",
            ),
            (Method::DELETE, "/networks/bridge", 403, "pre-defined"),
            (Method::POST, "/networks/create", 501, "later version"),
            (
                Method::POST,
                "/networks/bridge/connect",
                501,
                "later version",
            ),
        ] {
            let answer = send(testing::services(), method, path, "{}").await;
            assert_eq!(answer.status, status, "{path}");
            assert!(answer.text().contains(part), "{}", answer.text());
        }
    }
}

//! `/networks`.

use crate::serve::error::{ApiError, ApiResult};
use crate::serve::extract::{Json, Query};
use crate::serve::state::AppState;
use crate::serve::translate::containers::endpoint_settings;
use axum::extract::{Path, State};
use axum::routing::{delete, get, post};
use axum::{Extension, Router};
use engine::clock::rfc3339;
use engine::containers::ContainerService;
use engine::networks::create::{CreateNetwork, SubnetRequest};
use engine::networks::{Network, NetworkService};
use engine_api::ApiVersion;
use engine_api::containers::EndpointBody;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

type Networks = State<Arc<NetworkService>>;
type Containers = State<Arc<ContainerService>>;

pub fn router() -> Router<AppState> {
    Router::new()
        .route("/networks", get(list))
        .route("/networks/create", post(create))
        .route("/networks/prune", post(prune))
        .route("/networks/{id}", get(inspect).delete(remove))
        .route("/networks/{id}/connect", post(connect))
        .route("/networks/{id}/disconnect", post(disconnect))
        .route("/berth/port-problems", post(port_problems))
        // `docker rm --link`: the alias is part of the container's name.
        .route("/containers/{id}/{alias}", delete(remove_link))
}

/// The body of `POST /networks/create`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct CreateBody {
    name: Option<String>,
    driver: Option<String>,
    scope: Option<String>,
    internal: Option<bool>,
    attachable: Option<bool>,
    ingress: Option<bool>,
    config_only: Option<bool>,
    config_from: Option<ConfigFrom>,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: Option<bool>,
    #[serde(rename = "IPAM")]
    ipam: Option<IpamBody>,
    options: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ConfigFrom {
    network: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct IpamBody {
    driver: Option<String>,
    options: Option<BTreeMap<String, String>>,
    config: Option<Vec<SubnetBody>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct SubnetBody {
    subnet: Option<String>,
    #[serde(rename = "IPRange")]
    ip_range: Option<String>,
    gateway: Option<String>,
    /// `AuxiliaryAddresses` in the documentation, `AuxAddress` in Docker's own structure of older versions.
    #[serde(alias = "AuxAddress")]
    auxiliary_addresses: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ConnectBody {
    container: Option<String>,
    endpoint_config: Option<EndpointBody>,
}

/// `Force` says nothing here: a container that hangs is disconnected, too, and in Docker, as here, one that is not connected
/// is an error all the same.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct DisconnectBody {
    container: Option<String>,
    #[serde(rename = "Force")]
    _force: Option<bool>,
}

async fn create(
    State(networks): Networks,
    Json(body): Json<CreateBody>,
) -> ApiResult<(StatusCode, Json<Value>)> {
    if body.config_only.unwrap_or(false) {
        return Err(ApiError::invalid(
            "configuration-only networks are not supported by this engine",
        ));
    }
    let from = body.config_from.and_then(|from| from.network);
    if from.is_some_and(|name| !name.is_empty()) {
        return Err(ApiError::invalid(
            "networks from a configuration-only network are not supported by this engine",
        ));
    }
    let ipam = body.ipam.unwrap_or_default();
    let subnets = ipam.config.unwrap_or_default().into_iter();
    let created = networks
        .create(CreateNetwork {
            name: body.name.unwrap_or_default(),
            driver: body.driver.unwrap_or_default(),
            scope: body.scope.unwrap_or_default(),
            internal: body.internal.unwrap_or(false),
            attachable: body.attachable.unwrap_or(false),
            ingress: body.ingress.unwrap_or(false),
            ipv4: body.enable_ipv4,
            ipv6: body.enable_ipv6,
            ipam_driver: ipam.driver.unwrap_or_default(),
            ipam_options: ipam.options,
            subnets: subnets
                .map(|subnet| SubnetRequest {
                    subnet: subnet.subnet.unwrap_or_default(),
                    range: subnet.ip_range.unwrap_or_default(),
                    gateway: subnet.gateway.unwrap_or_default(),
                    auxiliary: subnet.auxiliary_addresses.unwrap_or_default(),
                })
                .collect(),
            options: body.options.unwrap_or_default(),
            labels: body.labels.unwrap_or_default(),
        })
        .await?;
    let warning = created.warnings.join(" ");
    Ok((
        StatusCode::CREATED,
        Json(json!({ "Id": created.id, "Warning": warning })),
    ))
}

async fn list(
    State(networks): Networks,
    State(containers): Containers,
    Extension(version): Extension<ApiVersion>,
    query: Query,
) -> ApiResult<Json<Value>> {
    let list = networks.list(&query.filters()?)?;
    let each = list.iter().map(|network| {
        let mut shown = shown(network);
        if version.lists_connected_containers() {
            shown["Containers"] = connected(&networks, &containers, network);
        }
        shown
    });
    Ok(Json(each.collect()))
}

async fn inspect(
    State(networks): Networks,
    State(containers): Containers,
    Path(id): Path<String>,
    query: Query,
) -> ApiResult<Json<Value>> {
    if query.text("scope").is_some_and(|scope| scope != "local") {
        return Err(engine::networks::NetworkError::NotFound { name: id }.into());
    }
    let network = networks.find(&id)?;
    let mut shown = shown(&network);
    shown["Containers"] = connected(&networks, &containers, &network);
    if query.flag("verbose") {
        // Services are Swarm's.
        shown["Services"] = json!({});
    }
    Ok(Json(shown))
}

async fn remove(State(networks): Networks, Path(id): Path<String>) -> ApiResult<StatusCode> {
    networks.remove(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn prune(
    State(networks): Networks,
    State(containers): Containers,
    query: Query,
) -> ApiResult<Json<Value>> {
    let used = |network: &Network| containers.uses_network(network);
    let removed = networks.prune(&query.filters()?, used).await?;
    let removed = (!removed.is_empty()).then_some(removed);
    Ok(Json(json!({ "NetworksDeleted": removed })))
}

async fn connect(
    State(networks): Networks,
    State(containers): Containers,
    Path(id): Path<String>,
    Json(body): Json<ConnectBody>,
) -> ApiResult<StatusCode> {
    let container = body.container.unwrap_or_default();
    let settings = endpoint_settings(body.endpoint_config.unwrap_or_default())?;
    let network = networks.find(&id)?;
    containers.connect(&container, &network, settings).await?;
    Ok(StatusCode::OK)
}

async fn disconnect(
    State(containers): Containers,
    Path(id): Path<String>,
    Json(body): Json<DisconnectBody>,
) -> ApiResult<StatusCode> {
    let container = body.container.unwrap_or_default();
    containers.disconnect(&container, &id).await?;
    Ok(StatusCode::OK)
}

/// Told by the desktop of a local machine: `{"8080/tcp": "another program has it"}`, everything that is wrong now.
async fn port_problems(
    State(networks): Networks,
    Json(problems): Json<BTreeMap<String, String>>,
) -> StatusCode {
    networks.set_port_problems(problems);
    StatusCode::NO_CONTENT
}

async fn remove_link(
    State(containers): Containers,
    Path((id, alias)): Path<(String, String)>,
    query: Query,
) -> ApiResult<StatusCode> {
    if !query.flag("link") {
        return Err(engine::containers::ContainerError::NotFound {
            name: format!("{id}/{alias}"),
        }
        .into());
    }
    containers.remove_link(&id, &alias).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn connected(networks: &NetworkService, containers: &ContainerService, network: &Network) -> Value {
    let with_length = |address: Option<IpAddr>, length: u8| {
        address.map_or_else(String::new, |address| format!("{address}/{length}"))
    };
    let each = networks
        .endpoints(network)
        .into_iter()
        .map(|(id, endpoint)| {
            let container = containers.find(id.as_str());
            let name = container.map(|container| container.name());
            let shown = json!({
                "Name": name.unwrap_or_default(),
                "EndpointID": endpoint.endpoint_id,
                "MacAddress": endpoint.mac_address,
                "IPv4Address": with_length(endpoint.address, endpoint.prefix_length),
                "IPv6Address": with_length(endpoint.ipv6_address, endpoint.ipv6_prefix_length),
            });
            (id.to_string(), shown)
        });
    Value::Object(each.collect())
}

/// A network as Docker shows it, without who is in it.
fn shown(network: &Network) -> Value {
    let ranges = network.subnets.iter().map(|subnet| {
        let mut range = Map::new();
        range.insert("Subnet".into(), json!(subnet.range));
        if let Some(lend) = subnet.lend {
            range.insert("IPRange".into(), json!(lend));
        }
        if let Some(gateway) = subnet.gateway {
            range.insert("Gateway".into(), json!(gateway));
        }
        if !subnet.auxiliary.is_empty() {
            range.insert("AuxiliaryAddresses".into(), json!(subnet.auxiliary));
        }
        Value::Object(range)
    });
    let ranges: Vec<Value> = ranges.collect();
    json!({
        "Name": network.name,
        "Id": network.id.as_str(),
        "Created": rfc3339(network.created),
        "Scope": "local",
        "Driver": network.driver.name(),
        "EnableIPv4": network.ipv4,
        "EnableIPv6": network.ipv6,
        "IPAM": {
            "Driver": "default",
            "Options": network.ipam_options,
            "Config": if ranges.is_empty() { Value::Null } else { ranges.into() },
        },
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": {},
        "Options": network.options,
        "Labels": network.labels,
    })
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;

"""``WorkloadPolicy.to_envoy``: the filters that istiod would write. What they mean, a real Envoy says in interop."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from meshsec import ConfigError, MeshConfig, Workload, WorkloadPolicy
from meshsec.resources import ExtAuthzHttp, ForwardedIdentity, PathNormalization, parse

WEB = Workload(name="web", namespace="prod", labels={"app": "web"})
JWKS = '{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "kid": "k"}]}'

EXTENSIONS = "type.googleapis.com/envoy.extensions"


def exported(*documents: Mapping[str, Any], **config: Any) -> dict[str, Any]:
    """The configuration that a policy of these resources becomes."""
    resources = parse("\n---\n".join(map(json.dumps, documents))) if documents else []
    return WorkloadPolicy.compile(resources, WEB, MeshConfig(allow_no_policy=True, **config)).to_envoy()


def document(kind: str, spec: Mapping[str, Any], **metadata: Any) -> dict[str, Any]:
    """A resource of the workload's namespace."""
    metadata = {"name": "one", "namespace": "prod", **metadata}
    return {"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": metadata, "spec": dict(spec)}


def policy(action: str, *rules: Mapping[str, Any], **metadata: Any) -> dict[str, Any]:
    """An AuthorizationPolicy."""
    return document("AuthorizationPolicy", {"action": action, "rules": list(rules)}, **metadata)


def tokens(*rules: Mapping[str, Any], **metadata: Any) -> dict[str, Any]:
    """A RequestAuthentication."""
    return document("RequestAuthentication", {"jwtRules": list(rules)}, **metadata)


def jwt_rule(issuer: str = "a", **changes: Any) -> dict[str, Any]:
    """A rule with keys of its own."""
    return {"issuer": issuer, "jwks": JWKS, **changes}


def only_rule(*rules: Mapping[str, Any], **config: Any) -> dict[str, Any]:
    """The one RBAC policy that one rule becomes."""
    (found,) = exported(policy("DENY", *rules), **config)["http_filters"]
    (name,) = found["typed_config"]["rules"]["policies"]
    assert name == "ns[prod]-policy[one]-rule[0]"
    return dict(found["typed_config"]["rules"]["policies"][name])


def requirement(*documents: Mapping[str, Any]) -> Any:
    """What the JWT filter requires."""
    (found,) = exported(*documents)["http_filters"]
    (rule,) = found["typed_config"]["rules"]
    assert rule["match"] == {"prefix": "/"}
    return rule["requires"]


def test_nothing_to_do_is_no_filter() -> None:
    """Without resources Envoy only normalizes paths."""
    assert exported() == {
        "http_connection_manager": {"normalize_path": True},
        "http_filters": [],
        "runtime": {"envoy.reloadable_features.http_reject_path_with_fragment": False},
    }


def test_the_export_is_json_and_repeatable() -> None:
    """Plain values; the same policy gives the same configuration, and nobody can change the policy through it."""
    documents = (tokens(jwt_rule()), policy("ALLOW", {"to": [{"operation": {"paths": ["/a/{*}"]}}]}))
    compiled = WorkloadPolicy.compile(parse("\n---\n".join(map(json.dumps, documents))), WEB)
    first = compiled.to_envoy()
    assert json.loads(json.dumps(first)) == first
    first["http_filters"].clear()
    first["runtime"].clear()
    first["http_connection_manager"].clear()
    assert compiled.to_envoy() == exported(*documents)


def test_the_order_of_the_filters() -> None:
    """Tokens first, then marks, refusals and admissions, whatever the order of the resources."""
    found = exported(
        policy("ALLOW", {}), policy("DENY", {}, name="d"), policy("AUDIT", {}, name="u"), tokens(jwt_rule())
    )
    names = [item["name"].rpartition(".")[2] for item in found["http_filters"]]
    actions = [item["typed_config"].get("rules", [{}]) for item in found["http_filters"][1:]]
    assert names == ["jwt_authn", "rbac", "rbac", "rbac"]
    assert [item["action"] for item in actions] == ["LOG", "DENY", "ALLOW"]


@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        (PathNormalization.NONE, {"normalize_path": False}),
        (PathNormalization.BASE, {"normalize_path": True}),
        (PathNormalization.MERGE_SLASHES, {"normalize_path": True, "merge_slashes": True}),
        (
            PathNormalization.DECODE_AND_MERGE_SLASHES,
            {
                "normalize_path": True,
                "merge_slashes": True,
                "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD",
            },
        ),
    ],
)
def test_normalization(mode: PathNormalization, settings: dict[str, Any]) -> None:
    """The settings of the connection manager for each of Istio's modes."""
    assert exported(path_normalization=mode)["http_connection_manager"] == settings


def test_an_allow_policy_without_rules_refuses_everything() -> None:
    """An RBAC filter with the action and no policy."""
    (found,) = exported(policy("ALLOW"))["http_filters"]
    assert found["typed_config"]["rules"] == {"action": "ALLOW", "policies": {}}


def test_policies_on_trial_are_shadow_rules() -> None:
    """Beside what is enforced, under the name by which istiod has their result recorded."""
    trial = {"name": "trial", "annotations": {"istio.io/dry-run": "true"}}
    alone, both = (
        exported(*documents)["http_filters"][0]["typed_config"]
        for documents in (
            [policy("ALLOW", {}, **trial)],
            [policy("DENY", {}), policy("DENY", {}, **trial)],
        )
    )
    assert "rules" not in alone
    assert alone["shadow_rules_stat_prefix"] == "istio_dry_run_allow_"
    assert alone["shadow_rules"]["action"] == "ALLOW"
    assert [list(both[name]["policies"]) for name in ("rules", "shadow_rules")] == [
        ["ns[prod]-policy[one]-rule[0]"], ["ns[prod]-policy[trial]-rule[0]"],
    ]  # fmt: skip


def test_custom_policies() -> None:
    """Shadow rules mark what must be asked about, and the filter after them asks where they did."""
    opa = ExtAuthzHttp(
        service="prod/opa.prod",
        port=9000,
        timeout=2.0,
        fail_open=True,
        status_on_error="503",
        path_prefix="/check",
        include_request_headers_in_check=("x-a", "p-*", "*-s"),
        include_additional_headers_in_check={"x-from": "web"},
        headers_to_upstream_on_allow=("x-sub",),
    )
    spec = {
        "action": "CUSTOM",
        "provider": {"name": "opa"},
        "rules": [{"to": [{"operation": {"paths": ["/admin*"]}}]}],
    }
    mark, ask = exported(document("AuthorizationPolicy", spec), extension_providers={"opa": opa})["http_filters"]
    assert "rules" not in mark["typed_config"]
    assert list(mark["typed_config"]["shadow_rules"]["policies"]) == ["ns[prod]-policy[one]-rule[0]"]
    prefix = mark["typed_config"]["shadow_rules_stat_prefix"]
    assert ask["typed_config"] == {
        "@type": f"{EXTENSIONS}.filters.http.ext_authz.v3.ExtAuthz",
        "transport_api_version": "V3",
        "failure_mode_allow": True,
        "status_on_error": {"code": 503},
        "filter_enabled_metadata": {
            "filter": mark["name"],
            "path": [{"key": f"{prefix}shadow_effective_policy_id"}],
            "value": {"present_match": True},
        },
        "allowed_headers": {
            "patterns": [
                {"ignore_case": True, "exact": "x-a"},
                {"ignore_case": True, "prefix": "p-"},
                {"ignore_case": True, "suffix": "-s"},
            ]
        },
        "http_service": {
            "server_uri": {"uri": "http://opa.prod:9000", "cluster": "outbound|9000||opa.prod", "timeout": "2s"},
            "path_prefix": "/check",
            "authorization_request": {"headers_to_add": [{"key": "x-from", "value": "web"}]},
            "authorization_response": {
                "allowed_upstream_headers": {"patterns": [{"ignore_case": True, "exact": "x-sub"}]}
            },
        },
    }


def test_fields_are_anded_values_ored_and_entries_alternatives() -> None:
    """Sources become principals, operations permissions; what ``when`` asks stands in each alternative."""
    found = only_rule(
        {
            "from": [
                {"source": {"principals": ["x/y", "*"], "notIpBlocks": ["10.1.0.0/16"]}},
                {"source": {"ipBlocks": ["::1"]}},
            ],
            "to": [{"operation": {"methods": ["GET"], "notPorts": ["80"]}}],
            "when": [
                {"key": "destination.ip", "values": ["10.0.0.1"]},
                {"key": "request.headers[X-A]", "notValues": ["*"]},
            ],
        }
    )
    absent = {"not_id": {"or_ids": {"ids": [{"header": {"name": "X-A", "present_match": True}}]}}}
    named = [{"exact": "spiffe://x/y"}, {"safe_regex": {"regex": ".+"}}]
    peers = {"or_ids": {"ids": [{"authenticated": {"principal_name": name}} for name in named]}}
    block = {"direct_remote_ip": {"address_prefix": "10.1.0.0", "prefix_len": 16}}
    one = {"direct_remote_ip": {"address_prefix": "::1", "prefix_len": 128}}
    here = {"destination_ip": {"address_prefix": "10.0.0.1", "prefix_len": 32}}
    method = {"header": {"name": ":method", "string_match": {"exact": "GET"}}}
    assert found["principals"] == [
        {"and_ids": {"ids": [peers, {"not_id": {"or_ids": {"ids": [block]}}}, absent]}},
        {"and_ids": {"ids": [{"or_ids": {"ids": [one]}}, absent]}},
    ]
    operation = [
        {"not_rule": {"or_rules": {"rules": [{"destination_port": 80}]}}},
        {"or_rules": {"rules": [method]}},
        {"or_rules": {"rules": [here]}},
    ]
    assert found["permissions"] == [{"and_rules": {"rules": operation}}]


def test_a_rule_without_conditions_is_for_everyone() -> None:
    """``rules: [{}]``."""
    assert only_rule({}) == {"permissions": [{"any": True}], "principals": [{"any": True}]}


def claim(*path: str, **value: Any) -> dict[str, Any]:
    """A matcher on a claim."""
    keys = [{"key": key} for key in ("payload", *path)]
    matcher = {"filter": "envoy.filters.http.jwt_authn", "path": keys, "value": value}
    return {"sourced_metadata": {"metadata_matcher": matcher}}


def texts(matcher: Mapping[str, Any]) -> dict[str, Any]:
    """A claim that is a text, or a list with one."""
    text = {"string_match": dict(matcher)}
    return {"or_match": {"value_matchers": [text, {"list_match": {"one_of": text}}]}}


@pytest.mark.parametrize(
    ("key", "value", "matcher"),
    [
        (
            "source.principal",
            "*x/y",
            {"authenticated": {"principal_name": {"safe_regex": {"regex": r"spiffe://.*x/y"}}}},
        ),
        ("source.principal", "x/*", {"authenticated": {"principal_name": {"prefix": "spiffe://x/"}}}),
        (
            "source.namespace",
            "p*.d",
            {"authenticated": {"principal_name": {"safe_regex": {"regex": r".*/ns/p.*\.d/.*"}}}},
        ),
        (
            "source.serviceAccount",
            "web",
            {
                "authenticated": {
                    "principal_name": {"safe_regex": {"regex": "spiffe://.+/ns/prod/(.+/|)sa/web(/.+)?"}}
                }
            },
        ),
        ("source.trustDomain", "td", {"authenticated": {"principal_name": {"prefix": "spiffe://td/"}}}),
        ("source.trustDomain", "*", {"authenticated": {"principal_name": {"prefix": "spiffe://"}}}),
        (
            "source.trustDomain",
            "*.x",
            {"authenticated": {"principal_name": {"safe_regex": {"regex": r"spiffe://[^/]*\.x/.*"}}}},
        ),
        (
            "request.auth.principal",
            "i/a*",
            {
                "and_ids": {
                    "ids": [
                        claim("iss", string_match={"exact": "i"}),
                        claim("sub", string_match={"prefix": "a"}),
                    ]
                }
            },
        ),
        ("request.auth.audiences", "web", claim("aud", **texts({"exact": "web"}))),
        ("request.auth.claims[a][b]", "*c", claim("a", "b", **texts({"suffix": "c"}))),
        ("request.auth.claims[a[b]c]", "*", claim("a[b]c", **texts({"safe_regex": {"regex": ".+"}}))),
        ("request.headers[X-A]", "v*", {"header": {"name": "X-A", "string_match": {"prefix": "v"}}}),
    ],
)
def test_principals(key: str, value: str, matcher: dict[str, Any]) -> None:
    """Each attribute of a caller, in its forms."""
    found = only_rule({"when": [{"key": key, "values": [value]}]})
    assert found["principals"] == [{"and_ids": {"ids": [{"or_ids": {"ids": [matcher]}}]}}]
    assert found["permissions"] == [{"any": True}]


@pytest.mark.parametrize(
    ("operation", "matcher"),
    [
        (
            {"hosts": ["*.X"]},
            {"header": {"name": ":authority", "string_match": {"suffix": ".x", "ignore_case": True}}},
        ),
        ({"hosts": ["*"]}, {"header": {"name": ":authority", "present_match": True}}),
        ({"paths": ["*"]}, {"url_path": {"path": {"safe_regex": {"regex": ".+"}}}}),
        ({"paths": ["/a*"]}, {"url_path": {"path": {"prefix": "/a"}}}),
        (
            {"paths": ["/a/{*}/{**}/b"]},
            {
                "uri_template": {
                    "name": "uri-template",
                    "typed_config": {
                        "@type": f"{EXTENSIONS}.path.match.uri_template.v3.UriTemplateMatchConfig",
                        "path_template": "/a/*/**/b",
                    },
                }
            },
        ),
    ],
)
def test_permissions(operation: dict[str, Any], matcher: dict[str, Any]) -> None:
    """Each attribute of an operation, in its forms."""
    found = only_rule({"to": [{"operation": operation}]})
    assert found["permissions"] == [{"and_rules": {"rules": [{"or_rules": {"rules": [matcher]}}]}}]


def test_aliases_are_expanded() -> None:
    """What is exported is what is compiled."""
    rule = {"from": [{"source": {"principals": ["cluster.local/ns/a/sa/b"]}}]}
    (principal,) = only_rule(rule, trust_domain="new", trust_domain_aliases=("old",))["principals"]
    names = [item["authenticated"]["principal_name"] for item in principal["and_ids"]["ids"][0]["or_ids"]["ids"]]
    assert names == [{"exact": "spiffe://new/ns/a/sa/b"}, {"exact": "spiffe://old/ns/a/sa/b"}]


@pytest.mark.parametrize(("compatibility", "field"), [("safe", "direct_remote_ip"), ("istio", "remote_ip")])
def test_the_clients_address(compatibility: str, field: str) -> None:
    """X-Forwarded-For is believed in Istio's reading alone."""
    found = only_rule({"from": [{"source": {"remoteIpBlocks": ["9.9.9.9"]}}]}, compatibility=compatibility)
    address = {field: {"address_prefix": "9.9.9.9", "prefix_len": 32}}
    assert found["principals"] == [{"and_ids": {"ids": [{"or_ids": {"ids": [address]}}]}}]


def test_proxies_in_front() -> None:
    """Counted as Istio's gateways count them; Istio's reading of a sidecar counts none."""
    blocks = policy("DENY", {"from": [{"source": {"remoteIpBlocks": ["9.9.9.9"]}}]})
    edge = {"use_remote_address": True, "xff_num_trusted_hops": 2}
    found = exported(blocks, num_trusted_proxies=2)
    assert found["http_connection_manager"] == {"normalize_path": True, **edge}
    assert '"remote_ip"' in json.dumps(found["http_filters"])
    istio = exported(blocks, num_trusted_proxies=2, compatibility="istio")
    assert istio["http_connection_manager"] == {"normalize_path": True}


def test_the_requirement_of_one_rule() -> None:
    """No token passes, a bad one does not; ``presence: REQUIRED`` leaves no way without."""
    optional = {"requires_any": {"requirements": [{"provider_name": "origins-0"}, {"allow_missing": {}}]}}
    assert requirement(tokens(jwt_rule())) == optional
    assert requirement(tokens(jwt_rule(presence="REQUIRED"))) == {"provider_name": "origins-0"}


def test_the_requirement_of_several_rules() -> None:
    """Any of them, or none of them finds a token; by issuer, over all resources."""
    both = exported(tokens(jwt_rule("b")), tokens(jwt_rule("a"), name="two"))["http_filters"][0]["typed_config"]
    assert [provider["issuer"] for provider in both["providers"].values()] == ["a", "b"]
    optional = [
        {"requires_any": {"requirements": [{"provider_name": name}, {"allow_missing": {}}]}}
        for name in both["providers"]
    ]
    assert both["rules"][0]["requires"] == {
        "requires_any": {
            "requirements": [
                {"provider_name": "origins-0"},
                {"provider_name": "origins-1"},
                {"requires_all": {"requirements": optional}},
            ]
        }
    }
    assert both["bypass_cors_preflight"] is True


def test_a_provider() -> None:
    """Every field of a rule; keys that are fetched name a cluster."""
    rule = {
        "issuer": "a",
        "jwksUri": "https://a.example/keys",
        "audiences": ["web"],
        "fromHeaders": [{"name": "x-t", "prefix": "T "}],
        "fromParams": ["t"],
        "fromCookies": ["c"],
        "forwardOriginalToken": True,
        "outputPayloadToHeader": "x-payload",
        "outputClaimToHeaders": [{"header": "x-sub", "claim": "sub"}],
        "spaceDelimitedClaims": ["roles"],
        "timeout": "2s",
    }
    (found,) = exported(tokens(rule))["http_filters"]
    assert found["typed_config"]["providers"] == {
        "origins-0": {
            "issuer": "a",
            "audiences": ["web"],
            "forward": True,
            "payload_in_metadata": "payload",
            "normalize_payload_in_metadata": {"space_delimited_claims": ["permission", "scope", "roles"]},
            "from_headers": [{"name": "x-t", "value_prefix": "T "}],
            "from_params": ["t"],
            "from_cookies": ["c"],
            "forward_payload_header": "x-payload",
            "claim_to_headers": [{"header_name": "x-sub", "claim_name": "sub"}],
            "remote_jwks": {
                "http_uri": {
                    "uri": "https://a.example/keys",
                    "cluster": "outbound|443||a.example",
                    "timeout": "2s",
                },
                "cache_duration": "300s",
            },
        }
    }


PATHS = {"meshsec.dev/include-paths": "/api/*, /v/{*}/w", "meshsec.dev/exclude-paths": "/api/open, *.css"}


def test_include_and_exclude_paths() -> None:
    """The first rule that matches counts: excluded paths, then those where a token must be, then all others."""
    (found,) = exported(tokens(jwt_rule(), annotations=PATHS))["http_filters"]
    assert found["typed_config"]["rules"] == [
        {"match": {"path": "/api/open"}},
        {"match": {"safe_regex": {"regex": r".*\.css"}}},
        {"match": {"prefix": "/api/"}, "requires": {"provider_name": "origins-0"}},
        {
            "match": {"safe_regex": {"regex": "/v/[A-Za-z0-9._~%!$&'()*+,;:@=-]+/w"}},
            "requires": {"provider_name": "origins-0"},
        },
    ]


def test_a_key_set_that_was_discovered_is_given() -> None:
    """Envoy does not discover one by itself; a rule that names its own is not touched."""
    resources = parse("\n---\n".join(map(json.dumps, [tokens({"issuer": "https://a.example"}, jwt_rule("b"))])))
    found = WorkloadPolicy.compile(resources, WEB).to_envoy(jwks={"https://a.example": '{"keys": []}', "b": "x"})
    first, second = found["http_filters"][0]["typed_config"]["providers"].values()
    assert {first["issuer"]: first["local_jwks"], second["issuer"]: second["local_jwks"]} == {
        "https://a.example": {"inline_string": '{"keys": []}'},
        "b": {"inline_string": JWKS},
    }


@pytest.mark.parametrize(
    ("documents", "reason"),
    [
        ([tokens({"issuer": "https://a.example"})], "key discovery"),
        (
            [
                tokens(jwt_rule(), annotations=PATHS),
                tokens(jwt_rule(), name="two", annotations={"meshsec.dev/exclude-paths": "/healthz"}),
            ],
            "not all rules'",
        ),
        ([tokens(jwt_rule(), annotations=PATHS), tokens(jwt_rule("b"), name="two")], "not all rules'"),
        ([tokens(jwt_rule(presence="REQUIRED"), jwt_rule("b"))], "presence: REQUIRED"),
    ],
)
def test_what_has_no_equivalent_is_refused(documents: list[dict[str, Any]], reason: str) -> None:
    """Nothing is left out silently, nothing is exported laxer than it is."""
    with pytest.raises(ConfigError, match=reason) as caught:
        exported(*documents)
    assert caught.value.code == "no_equivalent"


def test_forwarded_identities_are_refused() -> None:
    """Envoy judges the peer of the connection, which would be the proxy."""
    forwarded = ForwardedIdentity(format="xfcc", addresses=("127.0.0.1",))
    with pytest.raises(ConfigError, match="forwardedIdentity") as caught:
        exported(policy("ALLOW"), forwarded_identity=forwarded)
    assert caught.value.code == "no_equivalent"

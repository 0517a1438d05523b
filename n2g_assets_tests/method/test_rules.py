from n2g_assets.method.graph import pattern, rule_rows


def node(node_id, parent_id, token, end_activation=None, end_count=0):
    return {"node_id": node_id, "parent_id": parent_id, "token": token, "end_activation": end_activation,
            "end_count": end_count}  # fmt: skip


def test_every_end_is_a_rule_the_strongest_first_and_of_equals_the_lower_node():
    nodes = [
        node(0, None, b"except", 0.25, 1), node(1, 0, None), node(2, 1, b"all", 1.0, 3),
        node(3, 1, b"everyone", 0.5, 2), node(4, 3, b"almost", 1.0, 1),
    ]  # fmt: skip
    rules = rule_rows(nodes)
    assert [rule["rule_id"] for rule in rules] == [0, 1, 2, 3]
    assert [(rule["end_node_id"], rule["pattern"], rule["activation"], rule["count"]) for rule in rules] == [
        (2, "all * [except]", 1.0, 3),
        (4, "almost everyone * [except]", 1.0, 1),
        (3, "everyone * [except]", 0.5, 2),
        (0, "[except]", 0.25, 1),
    ]
    assert rules[1]["tokens"] == [b"except", None, b"everyone", b"almost"]
    assert rule_rows([]) == []


def test_an_end_that_predicts_nothing_is_a_rule_too():
    assert [rule["activation"] for rule in rule_rows([node(0, None, b"a", 0.0, 1), node(1, 0, b"b", -0.5, 1)])] == [
        0.0,
        -0.5,
    ]


def test_patterns_count_runs_and_cannot_be_misread():
    assert pattern([b"x", None, None, None, b"a", b"a", None, b"b"]) == "b * a a *{3} [x]"
    assert pattern([b"[", b"*", b"\\", b"]"]) == r"\] \\ \* [\[]"
    assert pattern([b"\n", b"  ", b"\xe2\x80"]) == r"\xe2\x80 ␣␣ [↵]"

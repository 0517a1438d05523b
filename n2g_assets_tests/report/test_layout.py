"""Which nodes of a token graph are shown, and where."""

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from n2g_assets.report.layout import lay_out
from n2g_assets.report.svg import draw_graph
from n2g_assets_tests.report.graphs import SVG, frame, graphs, node, parsed


def test_the_graph_of_except_after_all_stands_in_the_order_of_the_text():
    rows = [
        node(0, None, "activating", b"except"),
        node(1, 0, "ignore", None),
        node(2, 1, "context", b"everyone", end=0.7),
        node(3, 1, "context", b"all", end=0.9),
        node(4, None, "activating", b"excluding", end=0.8),
    ]
    layout = lay_out(frame(rows))
    places = {placed.node.token: (placed.column, placed.row) for placed in layout.nodes}
    assert places == {b"except": (0, 0.5), None: (1, 0.5), b"all": (2, 0), b"everyone": (2, 1)}
    assert [node.token for node in layout.alone] == [b"excluding"]
    assert (layout.rows, layout.hidden_nodes, layout.hidden_rules) == (2, 0, 0)


def test_a_run_of_ignore_nodes_is_drawn_as_one_and_branches_are_kept():
    rows = [node(0, None, "activating", b"x")]
    rows += [node(i, i - 1, "ignore", None) for i in (1, 2, 3)]
    rows += [node(4, 3, "context", b"a", end=0.9), node(5, 3, "ignore", None), node(6, 5, "context", b"b", end=0.8)]
    layout = lay_out(frame(rows))
    assert [(placed.node.node_id, placed.run, placed.column) for placed in layout.nodes] == [
        (0, 1, 0), (3, 3, 1), (4, 1, 2), (5, 1, 2), (6, 1, 3)
    ]  # fmt: skip
    assert layout.hidden_nodes == 0


def test_the_strongest_rules_are_shown_and_the_rest_is_counted():
    rows = [node(i, None, "activating", b"%d" % i, end=(i + 1) / 10) for i in range(10)]
    layout = lay_out(frame(rows), max_nodes=3)
    assert [one.token for one in layout.alone] == [b"9", b"8", b"7"]
    assert (layout.hidden_nodes, layout.hidden_rules) == (7, 7)


def test_a_rule_longer_than_the_limit_is_still_shown_whole():
    rows = [node(0, None, "activating", b"x")]
    rows += [node(i, i - 1, "context", b"c", depth=i, end=0.9 if i == 9 else None) for i in range(1, 10)]
    assert len(lay_out(frame(rows), max_nodes=4).nodes) == 10


def node_boxes(svg: str) -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom of every node in a picture, the mark of its end included."""
    boxes = []
    for group in parsed(svg).iter(f"{SVG}g"):
        if group.get("class", "").startswith("node "):
            drawn = [
                [float(box.get(name)) for name in ("x", "y", "width", "height")] for box in group.iter(f"{SVG}rect")
            ]
            left, top = min(box[0] for box in drawn), min(box[1] for box in drawn)
            boxes.append((left, top, max(x + w for x, _, w, _ in drawn), max(y + h for _, y, _, h in drawn)))
    return boxes


@settings(deadline=None, max_examples=30)
@given(graphs(), st.integers(1, 40))
def test_no_boxes_overlap_and_every_node_is_shown_or_counted(nodes, max_nodes):
    layout = lay_out(nodes, max_nodes)
    shown = sum(placed.run for placed in layout.nodes) + len(layout.alone)
    assert shown + layout.hidden_nodes == len(nodes)
    ends = sum(placed.node.end_activation is not None for placed in layout.nodes)
    ends += sum(one.end_activation is not None for one in layout.alone)
    assert ends + layout.hidden_rules == nodes["end_activation"].is_not_null().sum()
    boxes = node_boxes(draw_graph(nodes, title="toy", max_nodes=max_nodes))
    assert len(boxes) == len(layout.nodes) + len(layout.alone)
    for (left, top, right, bottom), (other_left, other_top, other_right, other_bottom) in combinations(boxes, 2):
        apart_across = right <= other_left + 0.2 or other_right <= left + 0.2
        assert apart_across or bottom <= other_top + 0.2 or other_bottom <= top + 0.2


@settings(deadline=None, max_examples=30)
@given(graphs())
def test_no_two_edges_cross(nodes):
    layout = lay_out(nodes)
    edges = [(layout.nodes[placed.parent], placed) for placed in layout.nodes if placed.parent is not None]
    for (parent, child), (other_parent, other_child) in combinations(edges, 2):
        assert child.column == parent.column + 1
        if parent.column == other_parent.column:
            assert (parent.row - other_parent.row) * (child.row - other_child.row) >= 0

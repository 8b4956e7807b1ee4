"""What autograd's graph of one forward pass says about the parameters that it uses."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.autograd.graph import Node

LONGEST_CHAIN = 8
"""Nodes between a weight and the output of its layer: casts, transposes, products, views."""

BATCHABLE = frozenset(
    f"{name}Backward0"
    for name in (
        *("Add", "Addmm", "Clone", "Div", "Elu", "Gelu", "LeakyRelu", "Mean", "Mm"),
        *("Mul", "Neg", "Permute", "Relu", "Sigmoid", "Silu", "Softplus", "Sub", "Sum", "T"),
        *("Tanh", "ToCopy", "Transpose", "UnsafeView", "View"),
    )
)
"""Nodes whose backward pass autograd runs for many gradients at once, without a hidden loop."""


def leaf_of(node: Node) -> Tensor | None:
    """The parameter whose gradient ends in a node that has no further ones; None for others."""
    return getattr(node, "variable", None)


@contextmanager
def hooked(modules: Iterable[nn.Module], hook: Callable[..., None]) -> Iterator[None]:
    """Have a function called after each forward pass of some modules. The hooks do not stay."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Graph:
    """The nodes behind some outputs, walked once.

    Args:
        outputs: tensors of one forward pass.
    """

    def __init__(self, outputs: Iterable[Tensor]) -> None:
        roots = [output.grad_fn for output in outputs if output.grad_fn is not None]
        self.parents: dict[Node, list[Node]] = {}
        """For each node the nodes that use what it gives, as often as they do."""
        self.leaves: dict[int, Node] = {}
        """For each parameter, by ``id``, its node."""
        self.batchable = True
        """Whether every node on the way is one of :data:`BATCHABLE`."""
        todo = list(dict.fromkeys(roots))
        for root in todo:
            self.parents.setdefault(root, [])
        while todo:
            node = todo.pop()
            children = node.next_functions
            if not children:
                variable = leaf_of(node)
                if variable is not None:
                    self.leaves[id(variable)] = node
                continue
            if self.batchable and node.name() not in BATCHABLE:
                self.batchable = False
            for child, _ in children:
                if child is None:
                    continue
                users = self.parents.get(child)
                if users is None:
                    self.parents[child] = [node]
                    todo.append(child)
                else:
                    users.append(node)

    def used_only_by(self, parameter: Tensor, node: Node) -> bool:
        """Whether all that a parameter does goes through one node, along one chain.

        A tied or reused weight has a second user somewhere on the way: at the parameter itself, or
        at its cast, which autocast shares between its users.
        """
        here = self.leaves.get(id(parameter))
        for _ in range(LONGEST_CHAIN):
            if here is None:
                return False
            if here is node:
                return True
            users = self.parents[here]
            if len(users) != 1:
                return False
            here = users[0]
        return here is node

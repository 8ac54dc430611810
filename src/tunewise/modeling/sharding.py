"""Layers whose frozen weights several processes hold together, each a share, over torch's `fully_shard`.

A layer's weights are gathered when it runs, forward and backward, and let go again (Rajbhandari et al. 2020,
arXiv:1910.02054, stage 3). Embeddings, head and norms outside of the layers stay whole in each process, as the loss
reads them directly, and so do trained adapters, which are small. Changes no bit of a layer's output. Knows nothing of
steps, rows or files.
"""

from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel

from tunewise.errors import ModelError
from tunewise.modeling.loading import backbone


def share_layers(model: PreTrainedModel, processes: int) -> None:
    """Keep a share of each layer's frozen weights only; every process must do so, and run the layers as often.

    Raises:
        ModelError: unsupported_sharding.
    """
    decoder = backbone(model)
    trained = {weight for weight in decoder.parameters() if weight.requires_grad}
    mesh = init_device_mesh(model.device.type, (processes,))
    layers = getattr(decoder, "layers", None)
    if not layers:
        raise ModelError(
            "unsupported_sharding",
            f"{type(model).__name__} has no list of layers to share out; choose sharding ddp",
            param="training.sharding",
        )
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
    outside = set(decoder.parameters()) - {weight for layer in layers for weight in layer.parameters()}
    fully_shard(decoder, mesh=mesh, ignored_params=trained | outside)

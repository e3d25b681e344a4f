"""Storage for torch.distributed.checkpoint (DCP): a safetensors file a rank, and DCP's metadata as JSON.

DCP plans who writes and reads which piece of a tensor, and cuts the pieces anew for another number of ranks. Its own
storage is not used: it pickles its metadata, which would be executed when read; its safetensors variant builds the file
in memory, has no digest, and loses the shapes of sharded tensors. Importing this module imports DCP, which takes half a
second, so whoever trains imports it when a checkpoint is due.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Size, Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from engine.artifacts.files import canonical_json, digest_bytes, write_synced
from engine.parallel.placement import Piece
from engine.training.digest import piece_sum, state_digest
from engine.training.rank_file import DTYPES, TYPES, write_tensors
from engine.training.sealed import INDEX, Damaged


@dataclass(frozen=True)
class Written:
    """A rank's report on one piece: the file that holds it, that file's digest, and the piece's sum of hashes."""

    file: str
    blake2b: str
    total: int


@dataclass
class Result:
    """A written checkpoint as the first rank knows it: the digest of its state, and of each file."""

    state: str = ""
    files: dict[str, str] = field(default_factory=dict)


class PieceSavePlanner(DefaultSavePlanner):
    """Plan to write these pieces; the state is the tensors that hold them, by the same names."""

    def __init__(self, pieces: Mapping[str, Piece]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self.pieces = pieces

    def create_local_plan(self) -> SavePlan:
        """Return a plan with one item a piece."""
        self.plan = SavePlan([self._item(name, piece) for name, piece in self.pieces.items()])
        return self.plan

    def _item(self, name: str, piece: Piece) -> WriteItem:
        data = TensorWriteData(_chunk(piece), TensorProperties(dtype=self.state_dict[name].dtype), Size(piece.whole))
        return WriteItem(MetadataIndex(name, piece.offsets), WriteItemType.SHARD, tensor_data=data)

    def lookup_object(self, index: MetadataIndex) -> Any:
        """Return the tensor that holds a piece."""
        return self.state_dict[index.fqn]


class PieceLoadPlanner(DefaultLoadPlanner):
    """Plan to read these pieces, from however many others they were written in, into tensors of the same names."""

    def __init__(self, pieces: Mapping[str, Piece]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self.pieces = pieces

    def create_local_plan(self) -> LoadPlan:
        """Return a plan that covers each piece. Raises Damaged if the checkpoint has not all of one."""
        items: list[ReadItem] = []
        for name, piece in self.pieces.items():
            kept = self.metadata.state_dict_metadata[name] if self.metadata else None
            assert isinstance(kept, TensorStorageMetadata)  # the reader below makes nothing else
            reads = create_read_items_for_chunk_list(name, kept, [_chunk(piece)])
            if sum(read.lengths.numel() for read in reads) != Size(piece.sizes).numel():
                raise Damaged(f"the checkpoint holds only a part of {name}")
            items += reads
        return LoadPlan(items)

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        """Return the tensor that a piece is read into."""
        tensor: Tensor = self.state_dict[index.fqn]
        return tensor


def _chunk(piece: Piece) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(Size(piece.offsets), Size(piece.sizes))


class RankFileWriter(StorageWriter):
    """Writes a rank's pieces to its file in the folder `partial`; on the first rank, the index and `result` as well."""

    def __init__(self, partial: Path, rank: int) -> None:
        self.partial, self.file = partial, f"rank-{rank:05d}.safetensors"
        self.result = Result()

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Do nothing: a writer writes one checkpoint."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the folder is made before."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Return the plan unchanged."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Return the plans unchanged, after making the folder; DCP calls this before any rank writes."""
        self.partial.mkdir(parents=True)
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write the plan's pieces, which are contiguous CPU tensors, and wait until they are on disk."""
        data = {item.index.fqn: planner.resolve_data(item) for item in plan.items}
        tensors = {name: tensor for name, tensor in data.items() if isinstance(tensor, Tensor)}  # all are
        digest = write_tensors(self.partial / self.file, tensors) if tensors else ""
        done: Future[list[WriteResult]] = Future()
        done.set_result([self._report(item, tensors[item.index.fqn], digest) for item in plan.items])
        return done

    def _report(self, item: WriteItem, tensor: Tensor, digest: str) -> WriteResult:
        data = item.tensor_data
        assert data is not None  # the planner above gives every item one
        piece = Piece(tuple(data.size), tuple(data.chunk.offsets), tuple(data.chunk.sizes))
        return WriteResult(item.index, tensor.nbytes, Written(self.file, digest, piece_sum(tensor, piece)))

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the index; put the digests of state and files into `result`. DCP calls this on the first rank."""
        reports = {report.index: report.storage_data for rank in results for report in rank}
        tensors, sums = {}, {}
        for name, kept in sorted(metadata.state_dict_metadata.items()):
            assert isinstance(kept, TensorStorageMetadata)  # nothing else is planned above
            dtype, shape = DTYPES[kept.properties.dtype], tuple(kept.size)
            written = [reports[MetadataIndex(name, chunk.offsets)] for chunk in kept.chunks]
            chunks = [
                {"offsets": list(chunk.offsets), "sizes": list(chunk.sizes), "file": report.file}
                for chunk, report in zip(kept.chunks, written, strict=True)
            ]
            tensors[name] = {"dtype": dtype, "shape": list(shape), "chunks": chunks}
            sums[name] = (dtype, shape, sum(report.total for report in written))
        data = canonical_json({"tensors": tensors})
        write_synced(self.partial / INDEX, data)
        self.result.files |= {report.file: report.blake2b for report in reports.values()}
        self.result.files[INDEX] = digest_bytes(data)
        self.result.state = state_digest(sums)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Return False: DCP is not to choose this storage by a path."""
        return False


class RankFileReader(StorageReader):
    """Reads pieces from the rank files of a verified checkpoint."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files: dict[MetadataIndex, str] = {}

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Do nothing: a reader reads one checkpoint."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return DCP's metadata, made from index.json."""
        tensors: dict[str, Any] = {}
        for name, entry in json.loads((self.directory / INDEX).read_bytes())["tensors"].items():
            chunks = [ChunkStorageMetadata(Size(c["offsets"]), Size(c["sizes"])) for c in entry["chunks"]]
            properties = TensorProperties(dtype=TYPES[entry["dtype"]])
            tensors[name] = TensorStorageMetadata(properties, Size(entry["shape"]), chunks)
            self.files |= {MetadataIndex(name, c["offsets"]): c["file"] for c in entry["chunks"]}
        return Metadata(tensors)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Do nothing: `read_metadata` has noted which file holds which piece."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Return the plan unchanged."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Return the plans unchanged."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read the plan's parts of pieces, file by file, into the planner's tensors."""
        by_file: dict[str, list[ReadItem]] = {}
        for item in plan.items:
            by_file.setdefault(self.files[item.storage_index], []).append(item)
        for name, items in sorted(by_file.items()):
            with safe_open(self.directory / name, framework="pt") as file:
                for item in items:
                    target = planner.resolve_tensor(item)
                    target.copy_(_part(file, item))
                    planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Return False: DCP is not to choose this storage by a path."""
        return False


def _part(file: Any, item: ReadItem) -> Tensor:
    """Return the part of a stored piece that an item asks for, and no more of the file."""
    if not item.lengths:
        whole: Tensor = file.get_tensor(item.storage_index.fqn)
        return whole
    ends = zip(item.storage_offsets, item.lengths, strict=True)
    part: Tensor = file.get_slice(item.storage_index.fqn)[tuple(slice(start, start + size) for start, size in ends)]
    return part

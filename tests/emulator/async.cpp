#include "async.h"

namespace emulator {

void check_async_reads(Warp& warp, const std::vector<SharedRange>& reads, int lane) {
  for (const SharedRange& range : reads) {
    const std::string wrong = range.place.block->shared.check_read(access_of(warp, lane, true),
                                                                   range.place.offset, range.size);
    if (!wrong.empty()) warp.fail(wrong, lane);
  }
}

AsyncPointer start(Warp& warp, AsyncOperation operation, bool asynchronous, int lane) {
  if (asynchronous) check_async_reads(warp, operation.reads, lane);
  for (const SharedRange& range : operation.writes) {
    const std::string wrong = range.place.block->shared.check_write(
        access_of(warp, lane, asynchronous), range.place.offset, range.size, nullptr);
    if (!wrong.empty()) warp.fail(wrong, lane);
  }
  operation.line = warp.instruction->at.line;
  operation.cluster = &warp.block.cluster;
  for (const bool writes : {false, true})
    for (const SharedRange& range : writes ? operation.writes : operation.reads)
      range.place.block->shared.begin(writes, operation.line, range.place.offset, range.size);
  std::vector<AsyncPointer>& in_flight = warp.block.cluster.in_flight;
  operation.index = in_flight.size();
  const AsyncPointer started = std::make_shared<AsyncOperation>(std::move(operation));
  in_flight.push_back(started);
  Machine& machine = warp.block.cluster.machine;
  if (machine.chance(machine.eagerness)) take_effect(*started);
  return started;
}

void take_effect(AsyncOperation& operation) {
  if (operation.took_effect) return;
  operation.took_effect = true;
  std::vector<AsyncPointer>& in_flight = operation.cluster->in_flight;
  const AsyncPointer keep = in_flight[operation.index];  // until its effect is over
  std::swap(in_flight[operation.index], in_flight.back());
  in_flight[operation.index]->index = operation.index;
  in_flight.pop_back();
  operation.effect(operation);
}

void finish(AsyncOperation& operation, Epoch epoch, int lane, bool generic) {
  if (operation.is_over) return;
  operation.is_over = true;
  const Access access{epoch, lane, operation.line, nullptr, nullptr, !generic};
  for (const SharedRange& range : operation.writes) {
    range.place.block->shared.end(true, range.place.offset, range.size);
    range.place.block->shared.record_write(access, range.place.offset, range.size, nullptr);
  }
  for (const SharedRange& range : operation.reads) {
    range.place.block->shared.end(false, range.place.offset, range.size);
    range.place.block->shared.record_read(access, range.place.offset, range.size);
  }
}

}  // namespace emulator

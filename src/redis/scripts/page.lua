-- Put before the scripts that read messages.

-- Takes messages with seqs from `low` to `high` in the order asked for: at most `limit`, and at most `max_bytes` and
-- `max_tokens` (0: no limit), but one at least. Answers {seq, entry, …} and whether more follow (0, 1).
local function read_page(t, low, high, descending, limit, max_bytes, max_tokens)
  local page, n, bytes, tokens, more = {}, 0, 0, 0, 0
  -- Takes an entry if there is room; answers whether to go on.
  local function take(seq, entry)
    if entry == '' then return true end
    local entry_tokens, size = weigh(entry)
    if n == limit or (n > 0 and (bytes + size > max_bytes or (max_tokens > 0 and tokens >= max_tokens))) then
      more = 1
      return false
    end
    n = n + 1
    bytes = bytes + size
    tokens = tokens + entry_tokens
    page[2 * n - 1], page[2 * n] = seq, entry
    return true
  end

  -- Instructions that outlived trimming are in no list any more.
  local function take_kept()
    if t.kept == 0 or low >= t.first_seq then return true end
    local flat, kept, entries = redis.call('HGETALL', SYSTEM), {}, {}
    for i = 1, #flat, 2 do
      local seq = tonumber(flat[i])
      if seq < t.first_seq and seq >= low and seq <= high then
        kept[#kept + 1] = seq
        entries[seq] = flat[i + 1]
      end
    end
    table.sort(kept, function(a, b) if descending then return a > b end return a < b end)
    for _, seq in ipairs(kept) do
      if not take(seq, entries[seq]) then return false end
    end
    return true
  end

  -- Reads few at a time: messages differ in size, up to 2 MiB.
  local function take_listed()
    local from, to = math.max(low, t.first_seq), high
    while from <= to do
      local slice = math.min(32, math.max(8, limit - n + 1))
      local a, b = from, math.min(to, from + slice - 1)
      if descending then a, b = math.max(from, to - slice + 1), to end
      local entries = redis.call('LRANGE', MESSAGES, a - t.first_seq, b - t.first_seq)
      local first, last, step = 1, #entries, 1
      if descending then first, last, step = #entries, 1, -1 end
      for i = first, last, step do
        if not take(a + i - 1, entries[i]) then return false end
      end
      if descending then to = a - 1 else from = b + 1 end
    end
    return true
  end

  if descending then
    if take_listed() then take_kept() end
  elseif take_kept() then
    take_listed()
  end
  return page, more
end

%% The Erlang/OTP side of the benchmarks: plain OTP, default settings but for TLS.
%%
%% A server node has an echo as a plain process and one as a gen_server, a counting sink and a
%% slow receiver.  The client prints one JSON object.  Request and reply are measured both ways,
%% with a hand-written reference and receive, and with gen_server:call; the caller of this
%% module keeps whichever is the better for Erlang.
-module(bench).
-behaviour(gen_server).
-export([serve/0, client/0]).
-export([init/1, handle_call/3, handle_cast/2]).

-define(BATCH, 64).
-define(LARGE, 8 * 1024 * 1024).
-define(WARM_UP, 0.2).

%% -- the server ---------------------------------------------------------------------------------

serve() ->
    Taken = counters:new(1, []),
    register(echo, spawn(fun echo/0)),
    {ok, _} = gen_server:start({local, gen_echo}, ?MODULE, [], []),
    register(sink, spawn(fun() -> sink(0, 0) end)),
    register(slow, spawn(fun() -> slow(Taken) end)),
    register(tally, spawn(fun() -> taken(Taken) end)),
    io:format("{\"pid\": ~s, \"node\": \"~s\"}~n", [os:getpid(), node()]),
    eof = io:get_line(""),
    erlang:halt(0, [{flush, false}]).

echo() ->
    receive {call, From, Ref, Payload} -> From ! {Ref, Payload}, echo() end.

init([]) -> {ok, none}.
handle_call(Payload, _From, State) -> {reply, Payload, State}.
handle_cast(_, State) -> {noreply, State}.

%% Counts binaries; `received` is answered at the n-th, with the microseconds since the first.
sink(Count, Started) ->
    receive
        Payload when is_binary(Payload) ->
            case Count of
                0 -> sink(1, now_us());
                _ -> sink(Count + 1, Started)
            end;
        {reset, From} ->
            From ! reset_done,
            sink(0, 0);
        {received, From, Wanted} when Count >= Wanted ->
            From ! {took, now_us() - Started},
            sink(Count, Started);
        {received, From, Wanted} ->
            %% Of several senders one may be ahead of the others' last messages.
            drain(Wanted - Count),
            From ! {took, now_us() - Started},
            sink(Wanted, Started)
    end.

drain(0) -> ok;
drain(Left) -> receive Payload when is_binary(Payload) -> drain(Left - 1) end.

slow(Taken) ->
    take(10, Taken),
    timer:sleep(10),
    slow(Taken).

take(0, _) -> ok;
take(Left, Taken) ->
    receive Payload when is_binary(Payload) -> counters:add(Taken, 1, 1) end,
    take(Left - 1, Taken).

taken(Taken) ->
    receive
        {tally, From} -> From ! {tallied, counters:get(Taken, 1), resident(os:getpid())}
    end,
    taken(Taken).

%% -- the client ---------------------------------------------------------------------------------

client() ->
    [Kind, Seconds, Width, Node, Pid] = init:get_plain_arguments(),
    Peer = list_to_atom(Node),
    Us = round(1.0e6 * list_to_float_or_integer(Seconds)),
    Times = {Us, round(Us * ?WARM_UP)},
    case Kind of
        "dial" -> ok;
        _ -> true = net_kernel:connect_node(Peer)
    end,
    Figures = measure(Kind, Peer, Pid, Times, list_to_integer(Width)),
    %% Written at once: a halt with a flush would wait for the flooded connection, one without
    %% might lose what io:format left to the user process.
    Json = io_lib:format("{~s}~n", [lists:join(", ", [show(F) || F <- Figures])]),
    ok = file:write_file("/dev/stdout", Json, [append]),
    erlang:halt(0, [{flush, false}]).

list_to_float_or_integer(Text) ->
    try list_to_float(Text) catch error:badarg -> list_to_integer(Text) end.

show({Key, Value}) when is_integer(Value) -> io_lib:format("\"~s\": ~b", [Key, Value]);
show({Key, Value}) -> io_lib:format("\"~s\": ~.2f", [Key, Value]).

measure("call", Peer, Pid, {Us, WarmUp}, _) ->
    better([one_call(Call, Peer, Pid, Us, WarmUp) || Call <- calls()], p50_us, fun(A, B) -> A < B end);
measure("calls", Peer, Pid, {Us, WarmUp}, Width) ->
    better([many_calls(Call, Peer, Pid, Us, WarmUp, Width) || Call <- calls()],
           calls_per_s, fun(A, B) -> A > B end);
measure("one-way", Peer, Pid, {Us, WarmUp}, Width) ->
    timed_calls(fun call/2, Peer, WarmUp),
    reset(Peer),
    Cpu = cpu(Pid),
    Sent = lists:sum(together(Width, fun() -> send_until(Peer, payload(), now_us() + Us, 0) end)),
    Took = received(Peer, Sent),
    [{messages_per_s, round(Sent * 1.0e6 / Took)}, {cpu_us, (cpu(Pid) - Cpu) / Sent}];
measure("large", Peer, Pid, {Us, WarmUp}, _) ->
    timed_calls(fun call/2, Peer, WarmUp div 4),
    reset(Peer),
    Large = binary:copy(<<"x">>, ?LARGE),
    Cpu = cpu(Pid),
    {sink, Peer} ! payload(),
    Sent = large_until(Peer, Large, now_us() + Us, 0),
    Took = received(Peer, Sent + 1),
    [{mb_per_s, Sent * ?LARGE / Took}, {cpu_us, (cpu(Pid) - Cpu) / Sent}];
measure("flood", Peer, _Pid, {Us, WarmUp}, _) ->
    Large = binary:copy(<<"x">>, ?LARGE),
    spawn(fun() -> flood(Peer, Large) end),
    Self = self(),
    spawn(fun() -> report_calls(Peer, Self) end),
    From = now_us() + WarmUp,
    Samples = collect(none, From, From + Us, []),
    Answered = length([S || {answered, S} <- Samples]),
    spread([S || {_, S} <- Samples]) ++ [{answered, Answered}];
measure("dial", Peer, _Pid, _, Width) ->
    First = dial(Peer),
    Again = lists:sort([begin disconnect(Peer), dial(Peer) end || _ <- lists:seq(1, Width)]),
    [{first_ms, First / 1000}, {again_ms, lists:nth((Width + 1) div 2, Again) / 1000}];
measure("process-memory", _Peer, _Pid, _, Width) ->
    Idle = fun() -> receive stop -> ok end end,
    Before = resident(os:getpid()),
    [spawn(Idle) || _ <- lists:seq(1, Width)],
    timer:sleep(100),
    [{bytes, round((resident(os:getpid()) - Before) / Width)}];
measure("slow-receiver", Peer, _Pid, {Us, _}, _) ->
    {TakenBefore, ThereBefore} = tally(Peer),
    HereBefore = resident(os:getpid()),
    Self = self(),
    Started = now_us(),
    {Sender, _} = spawn_monitor(fun() -> count_slow(Peer, payload(), Self, 0) end),
    timer:sleep(Us div 1000),
    exit(Sender, kill),
    Sent = latest(0),
    Took = now_us() - Started,
    Here = resident(os:getpid()),
    {Taken, There} = tally(Peer),
    [{received_per_s, round((Taken - TakenBefore) * 1.0e6 / Took)},
     {sent_per_s, round(Sent * 1.0e6 / Took)},
     {receiver_growth_kib, (There - ThereBefore) div 1024},
     {sender_growth_kib, (Here - HereBefore) div 1024}].

payload() -> binary:copy(<<"x">>, 100).

%% -- calls --------------------------------------------------------------------------------------

calls() -> [fun call/2, fun gen_call/2].

call(Peer, Payload) ->
    Ref = make_ref(),
    {echo, Peer} ! {call, self(), Ref, Payload},
    receive {Ref, Answer} -> Answer end.

gen_call(Peer, Payload) -> gen_server:call({gen_echo, Peer}, Payload, infinity).

one_call(Call, Peer, Pid, Us, WarmUp) ->
    timed_calls(Call, Peer, WarmUp),
    Cpu = cpu(Pid),
    Samples = timed_calls(Call, Peer, Us div 2),
    spread(Samples) ++ [{cpu_us, (cpu(Pid) - Cpu) / length(Samples)}].

many_calls(Call, Peer, Pid, Us, WarmUp, Width) ->
    timed_calls(Call, Peer, WarmUp),
    Cpu = cpu(Pid),
    Started = now_us(),
    End = Started + Us div 2,
    Done = lists:sum(together(Width, fun() -> call_until(Call, Peer, payload(), End, 0) end)),
    Took = now_us() - Started,
    [{calls_per_s, round(Done * 1.0e6 / Took)}, {cpu_us, (cpu(Pid) - Cpu) / Done}].

call_until(Call, Peer, Payload, End, Done) ->
    Call(Peer, Payload),
    case now_us() < End of
        true -> call_until(Call, Peer, Payload, End, Done + 1);
        false -> Done + 1
    end.

timed_calls(Call, Peer, Us) ->
    Now = erlang:monotonic_time(),
    timed_calls(Call, Peer, payload(), Now, Now + native(Us), []).

timed_calls(_, _, _, Now, End, Samples) when Now >= End -> Samples;
timed_calls(Call, Peer, Payload, Now, End, Samples) ->
    Call(Peer, Payload),
    Then = erlang:monotonic_time(),
    timed_calls(Call, Peer, Payload, Then, End, [us(Then - Now) | Samples]).

%% Calls one after the other, for ever.  Sending alone may be suspended, so the clock is the owner's.
report_calls(Peer, Owner) ->
    Owner ! {calling, now_us()},
    Ref = make_ref(),
    {echo, Peer} ! {call, self(), Ref, payload()},
    receive {Ref, _} -> Owner ! {answered, now_us()} end,
    report_calls(Peer, Owner).

%% Microseconds of each call; the last may still wait at the end, and counts with its wait so far.
collect(Calling, From, End, Samples) ->
    receive
        {calling, Now} -> collect(Now, From, End, Samples);
        {answered, Now} when Now < From -> collect(none, From, End, Samples);
        {answered, Now} -> collect(none, From, End, [{answered, Now - Calling} | Samples])
    after max(0, (End - now_us()) div 1000) ->
        case Calling of
            none -> Samples;
            _ -> [{waiting, now_us() - Calling} | Samples]
        end
    end.

%% -- messages -----------------------------------------------------------------------------------

send_until(Peer, Payload, End, Sent) ->
    send(?BATCH, {sink, Peer}, Payload),
    case now_us() < End of
        true -> send_until(Peer, Payload, End, Sent + ?BATCH);
        false -> Sent + ?BATCH
    end.

send(0, _, _) -> ok;
send(Left, To, Payload) -> To ! Payload, send(Left - 1, To, Payload).

large_until(Peer, Large, End, Sent) ->
    {sink, Peer} ! Large,
    case now_us() < End of
        true -> large_until(Peer, Large, End, Sent + 1);
        false -> Sent + 1
    end.

flood(Peer, Large) -> {sink, Peer} ! Large, flood(Peer, Large).

count_slow(Peer, Payload, Owner, Sent) ->
    send(?BATCH, {slow, Peer}, Payload),
    Owner ! {sent, Sent + ?BATCH},
    count_slow(Peer, Payload, Owner, Sent + ?BATCH).

latest(Sent) -> receive {sent, More} -> latest(More) after 0 -> Sent end.

reset(Peer) -> {sink, Peer} ! {reset, self()}, receive reset_done -> ok end.

received(Peer, Sent) -> {sink, Peer} ! {received, self(), Sent}, receive {took, Us} -> Us end.

tally(Peer) -> {tally, Peer} ! {tally, self()}, receive {tallied, N, Bytes} -> {N, Bytes} end.

%% -- connections --------------------------------------------------------------------------------

dial(Peer) ->
    Started = now_us(),
    true = net_kernel:connect_node(Peer),
    call(Peer, payload()),
    now_us() - Started.

disconnect(Peer) ->
    true = monitor_node(Peer, true),
    true = erlang:disconnect_node(Peer),
    receive {nodedown, Peer} -> ok end,
    %% The other end takes a moment to notice, and refuses a second connection until then.
    timer:sleep(200).

%% -- common -------------------------------------------------------------------------------------

together(Width, Fun) ->
    Self = self(),
    Pids = [spawn_link(fun() -> Self ! {self(), Fun()} end) || _ <- lists:seq(1, Width)],
    [receive {Pid, Result} -> Result end || Pid <- Pids].

better([A, B], Key, First) ->
    case First(proplists:get_value(Key, A), proplists:get_value(Key, B)) of
        true -> A;
        false -> B
    end.

spread(Samples) ->
    Sorted = lists:sort(Samples),
    Count = length(Sorted),
    At = fun(Part) -> float(lists:nth(max(1, min(Count, round(Part * Count))), Sorted)) end,
    [{p50_us, At(0.5)}, {p99_us, At(0.99)}].

now_us() -> erlang:monotonic_time(microsecond).
native(Us) -> erlang:convert_time_unit(Us, microsecond, native).
us(Native) -> erlang:convert_time_unit(Native, native, nanosecond) / 1000.

%% CPU microseconds of this process and the server; the kernel counts in steps of 10 ms.
cpu(Pid) -> lists:sum([stat(P) || P <- [os:getpid(), Pid]]) * 10000.

stat(Pid) ->
    {ok, Text} = file:read_file("/proc/" ++ Pid ++ "/stat"),
    [_, Rest] = binary:split(Text, <<") ">>),
    Fields = binary:split(Rest, <<" ">>, [global]),
    binary_to_integer(lists:nth(12, Fields)) + binary_to_integer(lists:nth(13, Fields)).

resident(Pid) ->
    {ok, Text} = file:read_file("/proc/" ++ Pid ++ "/statm"),
    [_, Pages | _] = binary:split(Text, <<" ">>, [global]),
    binary_to_integer(Pages) * 4096.

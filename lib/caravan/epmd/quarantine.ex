defmodule Caravan.Epmd.Quarantine do
  # Boot-safe. The peers that are kept out by cookie while strategies of this VM are drained. A peer in
  # quarantine has a secret cookie here, so every handshake with it fails, whichever side dials.
  #
  # The state is a persistent term, so that a strategy that crashes stays drained. There is one for the VM,
  # because a peer has one cookie here. Caravan.Cluster.Distribution.Cookies is the only module that changes it.
  @moduledoc false

  @typedoc """
    * `:secret`: the cookie of all peers in quarantine;
    * `:keys`: the registered names of the strategies that are drained;
    * `:cookies`: the peers in quarantine, with the cookies that they had before.
  """
  @type t :: %{secret: atom, keys: [atom], cookies: %{node => cookie :: atom}}

  @spec load() :: t
  def load, do: :persistent_term.get(__MODULE__, %{secret: nil, keys: [], cookies: %{}})

  @spec save(t) :: t
  def save(quarantine) do
    :persistent_term.put(__MODULE__, quarantine)
    quarantine
  end

  @doc """
  Gives the peers in quarantine their secret cookie again.

  A restart of distribution (`Node.stop/0`, `Node.start/2`) forgets the cookies of single peers. This runs
  inside `net_kernel`, before it accepts or sets up the first connection.
  """
  @spec restore() :: :ok
  def restore do
    %{secret: secret, cookies: cookies} = load()
    :lists.foreach(fn node -> :erlang.set_cookie(node, secret) end, :maps.keys(cookies))
  end
end

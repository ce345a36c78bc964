defmodule Caravan.Cluster.Distribution.ConnectAll do
  # Effect. Reads the setting `connect_all` of OTP.
  @moduledoc false

  @doc """
  Returns whether the process `global` of this VM connects each new node to all other nodes.

  The kernel parameter `connect_all` decides, then the flag `-connect_all`, as in `global:init/1` (kernel/src/global.erl
  of OTP 25.2 to 29). `global` reads them only when it starts.
  """
  @spec in_force() :: boolean
  def in_force do
    case :application.get_env(:kernel, :connect_all) do
      {:ok, connect_all} -> connect_all
      :undefined -> not match?({:ok, [[~c"false" | _] | _]}, :init.get_argument(:connect_all))
    end
  end
end

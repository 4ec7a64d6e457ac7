"""Train on an environment of your own: any Gymnasium class with discrete actions will do."""

import gymnasium as gym
import numpy as np

import drama
from drama.envs import check_env


class Corridor(gym.Env):
    """Walk to the right end; observed as a grey picture with floats from 0 to 1."""

    observation_space = gym.spaces.Box(0.0, 1.0, (16, 16), np.float32)
    action_space = gym.spaces.Discrete(2)  # left, right

    def picture(self):
        return np.eye(16, dtype=np.float32)[[self.place] * 16]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(1, 8))
        return self.picture(), {}

    def step(self, action):
        self.place = max(self.place + 2 * int(action) - 1, 0)
        arrived = self.place == 15
        return self.picture(), float(arrived), arrived, False, {}


def main(steps: int = 5_000) -> None:
    env = gym.wrappers.TimeLimit(Corridor(), max_episode_steps=60)
    print(check_env(env).render())
    drama.Agent(env, drama.presets.quick(), seed=0).learn(steps)


if __name__ == "__main__":
    main()
